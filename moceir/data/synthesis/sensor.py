"""Low light and noise: what the sensor and the camera make of the light."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moceir.data.counter import Draw, normals
from moceir.data.light import to_encoded, to_linear
from moceir.data.synthesis.stage import Stage, column

_BAYER = np.asarray([[[1, 0], [0, 0]], [[0, 1], [1, 0]], [[0, 0], [0, 1]]], dtype=np.float32)


def grain(draw: Draw) -> dict[str, np.ndarray]:
    """The grain of a camera: 6 of 10 with a Bayer pattern, 4 with a sample for every value.

    Returns:
        For n patches: ``keys`` (n, 3, 2); ``bayer`` (n,); ``tile`` (n, 3, 2, 2), the pixels that
        have a sample of each channel; ``scale`` (n, 3), what the samples are multiplied with so
        that missing ones become the mean of their neighbours, see ``raw``.
    """
    bayer = draw.happens(0.6)
    return {
        "keys": draw.keys(3),
        "bayer": bayer,
        "tile": np.where(bayer[:, None, None, None], _BAYER, 1),
        # Of green there is twice as much.
        "scale": np.where(bayer[:, None], [1 / 4, 1 / 8, 1 / 4], 1),
    }


def plan_flat(members: np.ndarray, draw: Draw) -> Stage:
    """Noise on code values for n members of a batch; the strength is sigma, 0.5 to 75 of 255.

    6 of 10 have white noise; 2 noise that is correlated between neighbours, as after some
    processing; 2 the same in all channels.
    """
    family = draw.uniform()
    side = np.where((family >= 0.6) & (family < 0.8), draw.uniform(0.2, 1), 0)
    keys = draw.keys(3)
    # Of unit variance in spite of the neighbours.
    sigma = draw.strong(0.5, 75) / 255 / (1 + side**2)
    return Stage(
        members,
        flat,
        {"sigma": column(sigma), "side": column(side)},
        np.where((family >= 0.8)[:, None, None], keys[:, :1], keys),
    )


def flat(images: Tensor, fields: Tensor, sigma: Tensor, side: Tensor) -> Tensor:
    """Add noise of standard deviation ``sigma``, (n, 1, 1, 1), before its correlation.

    fields: (n, 3, H, W) int32 random numbers from 0 to 65535. side: (n, 1, 1, 1), the weight of the
    neighbour on one side, in rows and in columns.
    """
    noise = normals(fields)
    for dim in (2, 3):
        noise = noise.addcmul_(noise.roll(1, dim), side)
    return torch.addcmul(images, noise, sigma)


def low_light(draw: Draw) -> dict[str, np.ndarray]:
    """Under-exposure: the strength is 0.3 to 7 stops, evenly, so that the light is log-uniform.

    With the darkness grow the differences of the channels' gains, the loss of saturation (up to
    0.7), and the sensor's shot and read noise.
    """
    s = draw.strength
    amplified = _white_balance(draw)
    return {
        "gain": 2.0 ** (-(0.3 + 6.7 * s)[:, None] + 0.3 * s[:, None] * draw.normal(3)),
        "saturation": 1 - 0.7 * s * draw.uniform(),
        "shot": (s * draw.log(1e-6, 1e-3))[:, None] * amplified,
        "read": ((s * draw.log(2e-5, 1.5e-3))[:, None] * amplified) ** 2,
        "exponent": np.exp(0.15 * s * draw.normal()),
        **grain(draw),
    }


def camera(draw: Draw) -> dict[str, np.ndarray]:
    """A camera's noise: the strength is shot noise, a variance of 3e-6 to 0.03 at full light.

    The read noise follows from it as in many cameras, with some scatter (Brooks et al. 2019). White
    balance amplifies that of red and blue.
    """
    shot = draw.strong(3e-6, 0.03)[:, None]
    read = np.exp(2.18 * np.log(shot) + 1.2 + 0.5 * draw.normal()[:, None])
    amplified = _white_balance(draw)
    return {
        "gain": np.ones((draw.n, 3)),
        "saturation": np.ones(draw.n),
        "shot": shot * amplified,
        "read": np.minimum(read, 0.01) * amplified**2,
        "exponent": np.ones(draw.n),
        **grain(draw),
    }


def _white_balance(draw: Draw) -> np.ndarray:
    """(n, 3) by how much the channels are amplified."""
    gains = draw.uniform(1, 2.2, 3)
    gains[:, 1] = 1
    return gains


def plan_raw(members: np.ndarray, given: dict[str, np.ndarray]) -> Stage:
    """What happens in the raw picture, for n members of a batch.

    given: as from ``low_light`` or ``camera``.
    """
    saturation = given["saturation"][:, None]
    arrays = {
        "gain": column(given["gain"]),
        "luma": column((1 - saturation) * np.asarray([0.2126, 0.7152, 0.0722])),
        "saturation": column(saturation),
        "shot": column(given["shot"] * given["scale"] ** 2),
        "read": column(given["read"] * given["scale"] ** 2),
        "exponent": column(given["exponent"]),
        "tile": given["tile"].astype(np.float32),
    }
    apply = partial(raw, bayer=int(given["bayer"].sum()))
    return Stage(members, apply, arrays, given["keys"]).first(given["bayer"])


def raw(
    images: Tensor,
    fields: Tensor,
    gain: Tensor,
    luma: Tensor,
    saturation: Tensor,
    shot: Tensor,
    read: Tensor,
    exponent: Tensor,
    tile: Tensor,
    bayer: int,
) -> Tensor:
    """Scale the light, lose colour, add noise whose variance is shot x light + read, encode.

    The noise is sampled and interpolated as a camera does it. The clean picture is not: it stands
    for one that went through the same camera without noise.

    Args:
        images: (n, 3, H, W) float32 in [0, 1].
        fields: (n, 3, H, W) int32 random numbers from 0 to 65535.
        gain: (n, 3, 1, 1) factors of the light.
        luma: (n, 3, 1, 1) weights of the channels in what is added to each of them.
        saturation: (n, 1, 1, 1) the share of each channel that stays.
        shot, read: (n, 3, 1, 1) variances, see above.
        exponent: (n, 1, 1, 1) of the encoded values: a tone curve.
        tile: (n, 3, 2, 2) the pixels that have a sample of a channel.
        bayer: how many of the images, from the first on, keep one colour per pixel; the other
            colours are interpolated from the neighbours.
    """
    height, width = images.shape[2:]
    light = to_linear(images) * gain
    light = torch.addcmul((light * luma).sum(1, keepdim=True), light, saturation)
    noise = normals(fields).mul_(torch.addcmul(read, light, shot).sqrt_())
    tiles = tile.repeat(1, 1, (height + 1) // 2, (width + 1) // 2)
    noise = noise.mul_(tiles[..., :height, :width])
    # Those with a Bayer pattern come first. Weights 1, 2, 1 of three rows and of three columns.
    filled = F.pad(noise[:bayer], (1, 1, 1, 1))
    for dim in (2, 3, 2, 3):
        size = filled.shape[dim] - 1
        filled = filled.narrow(dim, 0, size) + filled.narrow(dim, 1, size)
    noise[:bayer] = filled
    return to_encoded(light.add_(noise)).pow_(exponent)
