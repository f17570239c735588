"""Rain streaks and snow flakes of many shapes, drawn one by one."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def scatter(
    images: Tensor, density: float, margin: float, draws: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Throw ``density`` things per megapixel on the images and a margin around them.

    Returns:
        ``draws`` further uniform numbers for each thing, (draws, B, N), and the rows and columns of
        the centres, (B, N), all on the generator's device.
    """
    batch, _, height, width = images.shape
    area = (height + 2 * margin) * (width + 2 * margin)
    count = math.ceil(density * area / 1e6)
    u = torch.rand((2 + draws, batch, count), generator=generator, device=generator.device)
    rows = u[0] * (height + 2 * margin) - margin
    columns = u[1] * (width + 2 * margin) - margin
    return u[2:], rows, columns


_MAX_POINTS = 4_000_000
"""Samples that ``capsules`` evaluates at a time, which bounds its memory for large images."""


def capsules(
    images: Tensor,
    centre_y: Tensor,
    centre_x: Tensor,
    *,
    length: Tensor,
    width: Tensor,
    angle: Tensor,
    opacity: Tensor,
    soft: bool,
) -> Tensor:
    """Draw line segments with round ends; where several meet, the most opaque one shows.

    All arguments but the first and the last have the shape (B, N). ``angle`` is in radians from
    vertical. A ``soft`` one fades from its axis to its rim; the others are sharp there and fade
    towards their ends.

    Returns:
        (B, 1, H, W), the opacity of each pixel.
    """
    batch, _, height, columns = images.shape
    layer = images.new_zeros(batch * height * columns)
    if centre_y.numel() == 0:
        return layer.reshape(batch, 1, height, columns)
    edge = width / 2 + 0.5
    # A segment's pixels lie within a slanted strip: so many rows about its centre, and in each row
    # so many columns about its axis.
    reach_y = math.ceil(float((length / 2 * angle.cos() + edge).max()))
    reach_x = math.ceil(float((edge / angle.cos()).max()))
    dy = torch.arange(-reach_y, reach_y + 1, device=images.device)[:, None]
    dx = torch.arange(-reach_x, reach_x + 2, device=images.device)
    first = torch.arange(batch, device=centre_y.device)[:, None] * (height * columns)
    first = first.expand_as(centre_y)
    shapes = torch.stack((centre_y, centre_x, length / 2, edge, angle, opacity))
    shapes = shapes.flatten(1).to(images.device)
    offsets = first.flatten().to(images.device)
    chunk = max(1, _MAX_POINTS // (dy.numel() * dx.numel()))
    for start in range(0, offsets.numel(), chunk):
        part = shapes[:, start : start + chunk, None, None]
        cy, cx, half, rim, theta, alpha = part.unbind(0)
        y = cy.floor() + dy
        x = (cx + (y - cy) * theta.tan()).floor() + dx
        sin, cos = theta.sin(), theta.cos()
        along = (x - cx) * sin + (y - cy) * cos
        across = (x - cx) * cos - (y - cy) * sin
        distance = torch.hypot((along.abs() - half).clamp(min=0), across)
        cover = ((rim - distance) / (rim if soft else 1.0)).clamp(0, 1)
        cover = alpha * cover * cover * (3 - 2 * cover)
        if not soft:
            cover = cover * (1 - (along / (half + rim)).square())
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < columns)
        pixel = offsets[start : start + chunk, None, None] + (y * columns + x).long()
        layer.scatter_reduce_(
            0,
            torch.where(inside, pixel, 0).flatten(),
            torch.where(inside, cover, 0).flatten(),
            "amax",
        )
    return layer.reshape(batch, 1, height, columns)
