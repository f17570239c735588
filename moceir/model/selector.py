"""The small network that tells apart what a restoration has changed, by kind of degradation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moceir.data.kinds import KINDS
from moceir.model.layers import ChannelNorm, channels_last
from moceir.model.tone import Tone

LIGHT = ("haze", "low_light")
"""Kinds that change light and colour of whole regions, see ``tone``."""

DETAIL = tuple(kind for kind in KINDS if kind not in LIGHT)
"""The other kinds, which the selector tells apart pixel by pixel."""

BRIGHTENING = ("rain", "snow")
"""Those of ``DETAIL`` that add light. The others leave local means as they are, and so does their
removal."""

CELL = 16
"""Sides of images are multiples of it."""


class ResidualBlock(nn.Module):
    """``x + conv(gelu(conv(norm(x))))``; the middle may be scaled and shifted per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(dim)
        self.first = nn.Conv2d(dim, dim, 3, padding=1)
        self.second = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """x: (B, C, H, W); condition: (B, 2C), scales and shifts."""
        middle = self.first(self.norm(x))
        if condition is not None:
            scale, shift = condition[:, :, None, None].chunk(2, dim=1)
            middle = middle * (1 + scale) + shift
        return x + self.second(F.gelu(middle))


class Selector(nn.Module):
    """Names the degradations of an image, and keeps of a restoration what belongs to some of them.

    It sees the image beside the change that a restoration network made to its detail, and need not
    know how images look: only whether a change looks like noise, like rain, or like sharpening. A
    U-Net at half the resolution; which kinds are wanted enters its decoder.

    Args:
        dims: channels of the levels.
    """

    def __init__(self, dims: tuple[int, ...] = (32, 48, 64, 64)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(6 * 4, dims[0], 3, padding=1)
        self.encoder = nn.ModuleList(ResidualBlock(dim) for dim in dims)
        self.down = nn.ModuleList(
            nn.Conv2d(dims[i], dims[i + 1], 2, stride=2) for i in range(len(dims) - 1)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(dims[i + 1], dims[i], 2, stride=2) for i in range(len(dims) - 1)
        )
        self.decoder = nn.ModuleList(ResidualBlock(dim) for dim in dims)
        self.condition = nn.ModuleList(nn.Linear(len(DETAIL), 2 * dim) for dim in dims)
        self.output = nn.Conv2d(dims[0], 4 * 4, 3, padding=1)
        for parameter in self.output.parameters():
            nn.init.zeros_(parameter)
        self.channels = sum(dims)
        statistics = 4 * 3 + 2 * self.channels
        self.classifier = nn.Sequential(
            nn.LayerNorm(statistics),
            nn.Linear(statistics, 64),
            nn.GELU(),
            nn.Linear(64, len(KINDS)),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, image: Tensor, detail: Tensor) -> list[Tensor]:
        """Of each level, finest first.

        Args:
            image: (B, 3, H, W) in [0, 1], sides multiples of ``CELL``.
            detail: the same image restored, in its original light (``Tone.undone``).
        """
        # The change is small beside the image: seen at the scale of a few 8-bit steps.
        x = F.pixel_unshuffle(torch.cat((image - 0.5, 8 * (detail - image)), dim=1), 2)
        x = self.stem(channels_last(x))
        levels = []
        for i, block in enumerate(self.encoder):
            x = block(x if i == 0 else self.down[i - 1](x))
            levels.append(x)
        return levels

    def statistics(self, levels: list[Tensor], image: Tensor, tone: Tone) -> Tensor:
        """(B, E), from which ``classify`` judges: means over the image's pixels, so that those of a
        large image are the means of its parts'."""
        light = (tone.gain.log(), tone.offset, image, image**2)
        means = [x.mean((2, 3)) for x in (*light, *levels)]
        return torch.cat([*means, *((x**2).mean((2, 3)) for x in levels)], dim=1)

    def classify(self, statistics: Tensor) -> Tensor:
        """(B, 8) logits of the presence of each of ``KINDS``."""
        means, squared = statistics[:, : -self.channels], statistics[:, -self.channels :]
        return self.classifier(torch.cat((means, squared.add(1e-6).sqrt()), dim=1))

    def forward(self, levels: list[Tensor], change: Tensor, wanted: Tensor) -> Tensor:
        """What of a change of detail belongs to the wanted kinds.

        Args:
            levels: from ``features``.
            change: (B, 3, H, W), ``detail - image``.
            wanted: (B, 6), 1 for those of ``DETAIL`` that are to be removed and 0 for the others.

        Returns:
            (B, 3, H, W), to be added to the image.
        """
        x = levels[-1]
        for i in reversed(range(len(levels))):
            if i < len(levels) - 1:
                x = self.up[i](x) + levels[i]
            x = self.decoder[i](x, self.condition[i](wanted))
        share, own = F.pixel_shuffle(self.output(x), 2).split((1, 3), dim=1)
        return torch.sigmoid(share) * change + own / 8
