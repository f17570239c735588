"""Haze: atmospheric scattering over a random depth."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from moceir.data.counter import Draw
from moceir.data.synthesis.cosines import cosine_field
from moceir.data.synthesis.stage import Stage, column

_PIECES = 8


def plan(members: np.ndarray, draw: Draw) -> Stage:
    """Haze for the patches ``members`` of a batch.

    I = J t + A (1 - t), t = exp(-beta d) (Koschmieder; Narasimhan and Nayar 2002). beta 0.05 to
    2.5, the strength; A 0.6 to 1 with a tint. The depth d, 0 to 1, is flat for 3 of 10 patches,
    else a gradient at any angle, multi-octave relief and pieces that follow the picture's edges. 4
    of 10 are mixed in (nearly) linear light, with beta from 0.005, the others in code values, as
    the data sets of the literature are.
    """
    linear = draw.happens(0.4)
    # In light, a little brightens what is black by much more than in code values.
    beta = draw.strong(np.where(linear, 0.005, 0.05), 2.5)
    airlight = draw.uniform(0.6, 1)[:, None] * _tint(draw)
    flat = np.where(draw.happens(0.3), 1, draw.uniform(0, 0.6))
    relief, row, across = cosine_field(draw, draw.log(0.2, 1), draw.uniform(1.2, 3))
    # Half of the scenes are farthest somewhere near their upper edge.
    upwards = np.pi + 0.25 * draw.normal()
    angle = np.where(draw.happens(0.5), upwards, draw.uniform(-np.pi, np.pi))[:, None]
    slope = (np.cos(angle) * (row - 0.5))[:, :, None] + (np.sin(angle) * (across - 0.5))[:, None]
    steep, rough = (draw.uniform(0, high)[:, None, None] for high in (1.2, 0.35))
    depth = draw.uniform(0.3, 0.8)[:, None, None] + steep * slope + rough * relief
    uneven = (1 - flat)[:, None, None]
    pieces = np.where(draw.happens(0.6), draw.uniform(0, 0.35), 0) * (1 - flat)
    projection = draw.uniform(0, 1, 3) + 1e-3
    levels = draw.uniform(2, _PIECES)
    projection *= (levels / projection.sum(1))[:, None]
    shift = draw.uniform(-1, 1, _PIECES) * pieces[:, None]
    colour = np.clip(airlight, 0.5, 1)
    arrays = {
        "minus_beta": column(-beta),
        "airlight": column(np.where(linear[:, None], colour**2, colour)),
        "lattice": (flat[:, None, None] + uneven * depth).astype(np.float32)[:, None],
        "projection": column(projection),
        "shift": shift.astype(np.float32),
    }
    return Stage(members, partial(haze, linear=int(linear.sum())), arrays).first(linear)


def _tint(draw: Draw) -> np.ndarray:
    """(n, 3) factors: bluish to yellowish, as daylight is, and a little of anything."""
    return 1 + 0.04 * draw.normal(1) * np.asarray([-1, 0, 1]) + 0.01 * draw.normal(3)


def haze(
    images: Tensor,
    minus_beta: Tensor,
    airlight: Tensor,
    lattice: Tensor,
    projection: Tensor,
    shift: Tensor,
    linear: int,
) -> Tensor:
    """Put airlight between the camera and the scene.

    Args:
        images: (n, 3, H, W) float32 in [0, 1]; overwritten.
        minus_beta: (n, 1, 1, 1) optical thickness at depth 1, negative.
        airlight: (n, 3, 1, 1), squared for the first ``linear`` images.
        lattice: (n, 1, 33, 33) depth, interpolated to the size of the images.
        projection: (n, 3, 1, 1) weights of the channels; their sum, rounded down, numbers pieces.
        shift: (n, 8) what is added to the depth of each piece.
        linear: how many of the images, from the first on, are mixed in squared code values, which
            are nearly linear light.
    """
    size = images.shape[2:]
    depth = F.interpolate(lattice, size, mode="bilinear", align_corners=True)
    grey = (images * projection).sum(1, keepdim=True)
    # At half the size: pieces are areas and not specks, and the edges of the haze are a bit soft.
    half = F.avg_pool2d(grey, 2, ceil_mode=True, count_include_pad=False)
    piece = half.clamp_(0, _PIECES - 1).long()
    pieces = shift.gather(1, piece.flatten(1)).view_as(half)
    depth = depth + F.interpolate(pieces, size, mode="bilinear", align_corners=False)
    transmission = depth.clamp_(0.02, 1).mul_(minus_beta).exp_()
    images[:linear].square_()
    hazy = images.sub_(airlight).mul_(transmission).add_(airlight)
    hazy[:linear].sqrt_()
    return hazy
