"""Rain and snow: what falls in front of the scene, in layers at several distances."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from moceir.data.counter import Draw
from moceir.data.synthesis.stage import Stage, column

LAYERS = 3


def rain(draw: Draw) -> dict[str, np.ndarray]:
    """Rain: one to three layers of soft, slanted streaks, faint to dense.

    The strength is the opacity, 0.02 to 0.9, and half of what decides the density, 200 to 15,000
    near streaks a megapixel, fewer of those that would hide too much. The near ones are 8 to 120
    pixels long and 1 to 4 wide. 6 of 10 patches have streaks of a colour laid over the picture
    ("screened"), the others have it added. 3 of 10 come from the recipe of drawing programs: white
    noise, blurred along the fall, with contrast. 4 of 10 have a veil of distant drops.
    """
    opacity = draw.strong(0.02, 0.9)
    dense = 200 * 75 ** ((draw.strength + draw.uniform()) / 2)
    shrink = 0.62 ** np.arange(LAYERS)
    length = draw.log(8, 120)[:, None] * shrink * draw.uniform(0.8, 1.2, LAYERS)
    sigma = np.maximum(0.45, draw.uniform(0.45, 1.7)[:, None] * shrink**0.5)
    angle = np.deg2rad(np.clip(22 * draw.normal(), -60, 60)[:, None] + draw.uniform(-4, 4, LAYERS))
    taper = draw.uniform(0.1, 0.9)[:, None] * length
    count = 1 + (draw.uniform() * LAYERS).astype(int)
    share = dense[:, None] * 1e-6 * shrink**-1 * (np.arange(LAYERS) < count[:, None])
    means, spreads = _statistics(length, taper, sigma)
    # Where long and wide streaks are many they would hide everything.
    share *= np.minimum(1, 0.3 / (share * means).sum(1, keepdims=True))
    recipe = draw.happens(0.3)
    mean, spread = means[:, 0], spreads[:, 0]
    threshold = mean + draw.uniform(0.5, 2.2) * spread
    gain = 1 / (draw.uniform(0.7, 2.2) * spread)
    one = np.arange(LAYERS) == 0
    share = np.where(recipe[:, None], one, share)
    veil = np.where(draw.happens(0.4), draw.uniform(0, 0.3), 0) * opacity
    return {
        "keys": draw.keys(2),
        "share": share,
        "length": length,
        "taper": taper,
        "sigma": sigma,
        "angle": angle,
        "threshold": np.where(recipe, threshold, 0),
        "gain": np.where(recipe, gain, draw.log(1, 3)),
        "opacity": opacity,
        "colour": np.clip(draw.uniform(0.6, 1)[:, None] * (1 + 0.03 * draw.normal(3)), 0.4, 1),
        "screened": draw.happens(0.6),
        "veil": veil,
        "veil_colour": draw.uniform(0.6, 0.95)[:, None] * (1 + 0.03 * draw.normal(3)),
    }


def _statistics(
    length: np.ndarray, taper: np.ndarray, sigma: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of white noise blurred with a layer's kernel, see ``fall``."""
    short, long = np.minimum(length - taper, taper), np.maximum(length - taper, taper)
    # The kernel's integrals: it is nearly 1 at its centre. That of its square is a little too large
    # for streaks as short as wide, of which the noise has more contrast then.
    mean = _MEAN * sigma * np.sqrt(2 * np.pi) * np.sqrt(long**2 + 2 * np.pi * sigma**2)
    power = sigma * np.sqrt(np.pi) * (long - short / 3)
    return mean, _SPREAD * np.sqrt(power)


def snow(draw: Draw) -> dict[str, np.ndarray]:
    """Snow: one to three layers of soft flakes, few large near ones and many small far ones.

    The strength is the opacity, 0.03 to 1, and half of what decides the density, 60 to 1,500 near
    flakes a megapixel. Those are 3 to 18 pixels wide and fall 0 to 30 while the shutter is open. 6
    of 10 patches have a veil of distant flakes.
    """
    opacity = draw.strong(0.03, 1)
    dense = 60 * 25 ** ((draw.strength + draw.uniform()) / 2)
    shrink = 0.5 ** np.arange(LAYERS)
    sigma = draw.log(3, 18)[:, None] / 2.355 * shrink * draw.uniform(0.8, 1.2, LAYERS)
    still = draw.happens(0.4)
    length = np.where(still, 0, draw.uniform(0, 30))[:, None] * shrink
    angle = np.deg2rad(draw.uniform(-50, 50)[:, None] + draw.uniform(-12, 12, LAYERS))
    count = 1 + (draw.uniform() * LAYERS).astype(int)
    # Far layers alone occur, too: as likely as near ones alone.
    order = np.arange(LAYERS)
    shown = np.where(
        draw.happens(0.5)[:, None], order < count[:, None], order >= LAYERS - count[:, None]
    )
    veil = np.where(draw.happens(0.6), draw.uniform(0, 0.35), 0) * opacity
    return {
        "keys": draw.keys(2),
        "share": dense[:, None] * 1e-6 * shrink**-2 * shown,
        "length": length,
        "taper": 0.3 * length,
        "sigma": np.maximum(0.5, sigma),
        "angle": angle,
        "threshold": np.zeros(draw.n),
        "gain": draw.log(1, 4),
        "opacity": opacity,
        "colour": draw.uniform(0.8, 1)[:, None] * (1 + 0.01 * draw.normal(3)),
        "screened": np.ones(draw.n),
        "veil": veil,
        "veil_colour": draw.uniform(0.7, 1)[:, None] * (1 + 0.02 * draw.normal(3)),
    }


_MEAN, _SPREAD = 1 / 2, 1 / 12**0.5
"""Mean and standard deviation of a drop's brightness, uniform from 0 to 1."""


def plan(members: np.ndarray, given: dict[str, np.ndarray], size: tuple[int, int]) -> Stage:
    """Rain or snow for n members of a batch.

    given: as from ``rain`` or ``snow``, of shape (n,), or (n, 3) for layers or channels.
    """
    height, width = size

    def per_layer(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float32)[..., None, None]

    rows, columns = np.fft.fftfreq(height), np.fft.rfftfreq(width)
    angle, sigma = given["angle"], given["sigma"]
    blur = -2 * np.pi**2 * sigma[..., None] ** 2
    longer = np.maximum(given["length"] - given["taper"], given["taper"])
    # The spectrum at 0 of a kernel that is 1 at its centre.
    total = sigma * np.sqrt(2 * np.pi) * np.sqrt(longer**2 + 2 * np.pi * sigma**2)
    ends = np.cumsum(np.minimum(given["share"] * 65536, 65536), axis=1)
    ends = np.minimum(ends, 65536)
    starts = np.concatenate((np.zeros_like(ends[:, :1]), ends[:, :-1]), axis=1)
    arrays = {
        "starts": np.rint(starts).astype(np.int32)[..., None, None],
        "ends": np.rint(ends).astype(np.int32)[..., None, None],
        "row": (rows * np.cos(angle)[..., None]).astype(np.float32)[..., None],
        "column": (columns * np.sin(angle)[..., None]).astype(np.float32)[..., None, :],
        "long": per_layer(given["length"] - given["taper"]),
        "taper": per_layer(given["taper"]),
        "row_blur": (total[..., None] / 65536 * np.exp(blur * rows**2)).astype(np.float32)[
            ..., None
        ],
        "column_blur": np.exp(blur * columns**2).astype(np.float32)[..., None, :],
        "offset": column(-given["threshold"] * given["gain"]),
        "gain": column(given["gain"]),
        "colour": column(given["opacity"][:, None] * given["colour"]),
        "hidden": column(-given["opacity"] * given["screened"]),
        "veil": column(given["veil"]),
        "veil_colour": column(np.clip(given["veil_colour"], 0, 1)),
    }
    return Stage(members, partial(fall, size=size), arrays, given["keys"])


def fall(
    images: Tensor,
    fields: Tensor,
    starts: Tensor,
    ends: Tensor,
    row: Tensor,
    column: Tensor,
    long: Tensor,
    taper: Tensor,
    row_blur: Tensor,
    column_blur: Tensor,
    offset: Tensor,
    gain: Tensor,
    colour: Tensor,
    hidden: Tensor,
    veil: Tensor,
    veil_colour: Tensor,
    size: tuple[int, int],
) -> Tensor:
    """Scatter points of random brightness, draw each out to a streak, and lay it over the images.

    The streak is a trapezoid along the fall and a Gaussian across, given by its spectrum: the
    convolution is a product there, on a torus: what leaves at one edge comes in at the opposite
    one, and no edge has fewer streaks than the middle.

    Args:
        images: (n, 3, H, W) float32 in [0, 1].
        fields: (n, 2, H, W) int32 random numbers from 0 to 65535: places and brightness.
        starts, ends: (n, 3, 1, 1) int32, from 0 to 65536: a layer's share of the pixels.
        row, column: (n, 3, H, 1) and (n, 3, 1, W // 2 + 1), whose sum is the frequency along the
            fall, cycles a pixel.
        long, taper: (n, 3, 1, 1) the lengths of the two boxes whose convolution is the
            trapezoid, pixels.
        row_blur, column_blur: as ``row`` and ``column``: the Gaussian's spectrum is their product.
        offset, gain: (n, 1, 1, 1): the layers' sum x becomes offset + gain x, clamped to [0, 1].
        colour, hidden: (n, 3, 1, 1) and (n, 1, 1, 1): what the densest streaks add, and the share
            of the picture that they hide, negative.
        veil, veil_colour: (n, 1, 1, 1) and (n, 3, 1, 1), laid over the whole picture first.
        size: H, W.
    """
    place, brightness = fields[:, :1], fields[:, 1:]
    along = row + column
    spectrum = torch.sinc(along * long).mul_(torch.sinc(along * taper))
    spectrum = spectrum.mul_(row_blur).mul_(column_blur)
    drops = spectrum.new_empty(len(images), LAYERS, *size)
    torch.mul(brightness, (place >= starts) & (place < ends), out=drops)
    layers = torch.fft.rfft2(drops).mul_(spectrum).sum(1, keepdim=True)
    cover = torch.addcmul(offset, torch.fft.irfft2(layers, size), gain).clamp_(0, 1)
    images = torch.lerp(images, veil_colour, veil)
    return torch.addcmul(images, cover, torch.addcmul(colour, images, hidden)).clamp_(0, 1)
