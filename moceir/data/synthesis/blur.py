"""Motion blur and defocus: a point spread function for each patch."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moceir.data.counter import Draw
from moceir.data.synthesis.cosines import cosine_field
from moceir.data.synthesis.stage import Stage

REACH = 24
"""Point spread functions end so many pixels from their centre."""
_OFFSETS = np.arange(-REACH, REACH + 1)
_MOMENTS = 96


def motion(draw: Draw) -> dict[str, np.ndarray]:
    """The point spread functions of a moving camera, as ``plan`` takes them.

    The strength is the extent of the motion, 0.3 to 40 pixels: for half of the patches along a
    line, for the others along the smooth trajectory of a shaking hand, at a speed that changes
    (Boracchi and Foi 2012), here a random cosine series. A sixth of
    the patches is sharp in places.
    """
    extent = draw.strong(0.3, 40)
    time = np.linspace(0, 1, _MOMENTS)
    order = np.arange(1, 8)
    series = draw.normal(2, len(order)) * order ** -draw.uniform(1.2, 2.2)[:, None, None]
    path = series @ np.cos(np.pi * order[:, None] * time)
    angle = draw.uniform(0, np.pi)
    line = np.stack((np.sin(angle), np.cos(angle)), axis=1)[..., None] * time
    path = np.where(draw.happens(0.5)[:, None, None], line, path)
    low, high = path.min(2, keepdims=True), path.max(2, keepdims=True)
    size = np.linalg.norm(high - low, axis=1, keepdims=True)
    # The mean stays where it was, so that the picture does.
    path = (path - path.mean(2, keepdims=True)) * (extent[:, None, None] / size)
    path = np.clip(path, -REACH, REACH)
    rows, columns = np.maximum(1 - np.abs(path[..., None] - _OFFSETS), 0).transpose(1, 0, 2, 3)
    kernel = rows.transpose(0, 2, 1) @ columns
    return {"kernel": kernel / kernel.sum((1, 2), keepdims=True), **shared(draw, 1 / 6)}


def defocus(draw: Draw) -> dict[str, np.ndarray]:
    """The point spread functions of a lens out of focus, as ``plan`` takes them.

    The strength is the radius, 0.5 to 8 pixels: of a disk (3 of 10), of the polygon of an iris
    with 5 to 9 blades (3 of 10), or of a Gaussian of the disk's variance, round (2 of 10) or longer
    in one direction (2 of 10). A third of the patches is sharp in places.
    """
    radius = draw.strong(0.5, 8)[:, None, None]
    family = draw.uniform()[:, None, None]
    turn = draw.uniform(0, 2 * np.pi)[:, None, None]
    y, x = _OFFSETS[:, None], _OFFSETS[None, :]
    distance = np.hypot(y, x)
    sector = 2 * np.pi / (5 + np.floor(draw.uniform(0, 5)))[:, None, None]
    within = np.mod(np.arctan2(y, x) + turn, sector) - sector / 2
    side = distance * np.cos(within) / np.cos(sector / 2)
    shape = np.clip(radius + 0.5 - np.where(family < 0.3, distance, side), 0, 1)
    ratio = np.where(family < 0.8, 1, draw.uniform(0.25, 0.8)[:, None, None])
    along, across = y * np.sin(turn) + x * np.cos(turn), y * np.cos(turn) - x * np.sin(turn)
    spread = (along**2 * ratio + across**2 / ratio) / (radius / 2) ** 2
    kernel = np.where(family < 0.6, shape, np.exp(-0.5 * spread))
    return {"kernel": kernel / kernel.sum((1, 2), keepdims=True), **shared(draw, 1 / 3)}


def shared(draw: Draw, varying: float) -> dict[str, np.ndarray]:
    """What both kinds of blur have: ``mask`` and ``linear``, see ``plan``.

    Light is averaged for 7 of 10 patches, code values (as in many data sets) for the others. A
    share ``varying`` is blurred here and sharp there, with soft or steep transitions.
    """
    linear = draw.happens(0.7)
    field, _, _ = cosine_field(draw, draw.log(0.3, 1), draw.uniform(2, 4))
    steep = draw.log(2, 20)[:, None, None]
    mask = 1 / (1 + np.exp(-steep * (field + draw.uniform(-0.7, 1)[:, None, None])))
    return {
        "mask": np.where(draw.happens(varying)[:, None, None], mask, 1),
        "linear": linear,
    }


def plan(members: np.ndarray, given: dict[str, np.ndarray], size: tuple[int, int]) -> Stage:
    """A blur for n members of a batch.

    given: ``kernel`` (n, 49, 49), ``mask`` (n, 33, 33) and ``linear`` (n,), see ``blur``.
    """
    linear = given["linear"]
    arrays = {name: given[name].astype(np.float32)[:, None] for name in ("kernel", "mask")}
    stage = Stage(members, partial(blur, linear=int(linear.sum()), size=size), arrays).first(linear)
    stage.arrays["rows"], stage.arrays["columns"] = (_mirror(side) for side in size)
    return stage


def _mirror(side: int) -> np.ndarray:
    """Where to take the pixels of a longer side, mirrored at both ends, whose FFT is fast."""
    length = side + 2 * REACH
    while _reduced(length) > 1:
        length += 1
    period = max(2 * (side - 1), 1)
    place = np.arange(-REACH, length - REACH) % period
    return np.minimum(place, period - place)


def _reduced(n: int) -> int:
    """n without its factors 2, 3 and 5."""
    for factor in (2, 3, 5):
        while n % factor == 0:
            n //= factor
    return n


def blur(
    images: Tensor,
    kernel: Tensor,
    mask: Tensor,
    rows: Tensor,
    columns: Tensor,
    linear: int,
    size: tuple[int, int],
) -> Tensor:
    """Convolve each image with a kernel of its own, by FFT.

    Args:
        images: (n, 3, H, W) float32 in [0, 1].
        kernel: (n, 1, 49, 49), sum 1.
        mask: (n, 1, 33, 33), interpolated: the share of the blurred image, else the sharp one.
        rows, columns: the pixels of the mirrored images, at least H + 48 and W + 48.
        linear: how many of the images, from the first on, are averaged in squared code values,
            which are nearly linear light.
        size: H, W.
    """
    height, width = size
    longer = (len(rows), len(columns))
    mirrored = images.index_select(2, rows).index_select(3, columns)
    mirrored[:linear].square_()
    spectrum = torch.fft.rfft2(mirrored).mul_(torch.fft.rfft2(kernel, longer))
    # The kernel's centre is at (24, 24), and so was the images' first pixel.
    blurred = torch.fft.irfft2(spectrum, longer)[
        ..., 2 * REACH : 2 * REACH + height, 2 * REACH : 2 * REACH + width
    ].clamp(0, 1)
    blurred[:linear].sqrt_()
    share = F.interpolate(mask, size, mode="bilinear", align_corners=True)
    return torch.lerp(images, blurred, share)
