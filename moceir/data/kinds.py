"""One simple model of each kind of degradation, with its parameters and their ranges."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moceir.data.jpeg import coding, jpeg
from moceir.data.light import to_encoded, to_linear
from moceir.data.streaks import capsules, scatter


class Degradation(ABC):
    """A degradation of images: a callable ``(images, generator) -> images``."""

    @torch.no_grad()
    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Degrade a batch; the random fields differ from image to image, the parameters do not.

        Args:
            images: (B, 3, H, W), floating point, RGB in [0, 1], sRGB-encoded.
            generator: source of all randomness, on any device.

        Returns:
            A new tensor like ``images``, in [0, 1].

        Raises:
            TypeError: ``images`` is not a floating-point tensor.
            ValueError: ``images`` is not of shape (B, 3, H, W) with H, W >= 1.
        """
        check_images(images)
        if images.shape[0] == 0:
            return images.clone()
        with torch.autocast(images.device.type, enabled=False):
            degraded = self._apply(images.float(), generator)
        return degraded.clamp(0, 1).to(images.dtype)

    @abstractmethod
    def _apply(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """``images`` is float32 and checked; the caller clamps the result."""


def _parameter(default: float, valid: tuple[float, float]) -> Any:
    """A dataclass field with its closed valid range."""
    return field(default=default, metadata={"valid": valid})


@dataclass(frozen=True)
class Single(Degradation):
    """One kind of degradation: its fields are parameters declared with ``_parameter``."""

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        for parameter in fields(self):
            value = getattr(self, parameter.name)
            low, high = parameter.metadata["valid"]
            integer = isinstance(parameter.default, int)
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not low <= value <= high
                or (integer and value != int(value))
            ):
                what = "an integer" if integer else "a number"
                raise ValueError(
                    f"{self.kind}: {parameter.name} must be {what} from {low:g} to {high:g}, "
                    f"got {value!r}"
                )
            object.__setattr__(self, parameter.name, int(value) if integer else float(value))

    def __str__(self) -> str:
        """The text which ``parse`` turns back into this degradation."""
        values = (f"{p.name}={str(getattr(self, p.name)).removesuffix('.0')}" for p in fields(self))
        return ":".join((self.kind, *values))


@dataclass(frozen=True)
class GaussianNoise(Single):
    """White Gaussian noise, independent per pixel and channel.

    The protocol of the published denoising tables: the clean picture has 8 bits, the noisy one is
    clipped and truncated (not rounded) to 8 bits.

    Args:
        sigma: standard deviation on the 0..255 scale; valid 0..100.
    """

    kind: ClassVar[str] = "noise"
    sigma: float = _parameter(25.0, valid=(0, 100))

    def _apply(self, images: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(images.shape, generator=generator, device=generator.device)
        levels = (images * 255).round().add_(noise.to(images.device), alpha=self.sigma)
        return levels.floor_().div_(255)


@dataclass(frozen=True)
class RainStreaks(Single):
    """Falling rain: bright, antialiased streaks of a common direction, screened over the picture.

    Length, width and brightness vary from streak to streak as drops at different distances do, and
    the angle by a few degrees.

    Args:
        density: streaks per megapixel; valid 0..20000.
        length: mean streak length, pixels; valid 1..100.
        width: mean streak width, pixels; valid 0.5..10.
        angle: direction of fall, degrees from vertical, positive falls to the right; valid
            -60..60.
        intensity: opacity of the brightest streaks; valid 0..1.
    """

    kind: ClassVar[str] = "rain"
    density: float = _parameter(4000.0, valid=(0, 20000))
    length: float = _parameter(28.0, valid=(1, 100))
    width: float = _parameter(1.4, valid=(0.5, 10))
    angle: float = _parameter(12.0, valid=(-60, 60))
    intensity: float = _parameter(0.7, valid=(0, 1))

    def _apply(self, images: Tensor, generator: torch.Generator) -> Tensor:
        margin = 0.75 * self.length + self.width
        draws, centre_y, centre_x = scatter(images, self.density, margin, 4, generator)
        layer = capsules(
            images,
            centre_y,
            centre_x,
            length=self.length * (0.5 + draws[0]),
            width=self.width * (0.6 + 0.8 * draws[1]),
            angle=torch.deg2rad(self.angle + 6 * (draws[2] - 0.5)),
            opacity=self.intensity * (0.25 + 0.75 * draws[3]),
            soft=False,
        )
        return images + layer * (1 - images)


@dataclass(frozen=True)
class Haze(Single):
    """Atmospheric scattering, I = J t + A (1 - t) with transmission t = exp(-beta d).

    The depth d in [0, 1] of the scene is a smooth random field over a vertical gradient, far at the
    top.

    Args:
        beta: optical thickness at the greatest depth, dimensionless; valid 0..1000.
        airlight: A, the encoded grey level of the haze itself; valid 0..1.
        view: share of the scene's height and width that the image shows, somewhere within the
            scene; valid 0..1.
    """

    kind: ClassVar[str] = "haze"
    beta: float = _parameter(1.4, valid=(0, 1000))
    airlight: float = _parameter(0.88, valid=(0, 1))
    view: float = _parameter(1.0, valid=(0, 1))

    def _apply(self, images: Tensor, generator: torch.Generator) -> Tensor:
        batch, _, height, width = images.shape
        device = generator.device
        ends = torch.rand((2, batch, 1, 1, 1), generator=generator, device=device)
        grid = torch.rand((batch, 1, 5, 5), generator=generator, device=device)
        corner = torch.rand((2, batch, 1), generator=generator, device=device) * (1 - self.view)
        ends, grid, corner = (field.to(images.device) for field in (ends, grid, corner))
        # Where in the scene, (B, H) and (B, W): 0 and 1 are its first and its last pixels.
        row, column = (
            start + self.view * torch.linspace(0, 1, size, device=images.device)
            for start, size in zip(corner, (height, width), strict=True)
        )
        place = torch.stack(
            (
                column[:, None, :].expand(-1, height, -1),
                row[:, :, None].expand(-1, -1, width),
            ),
            dim=3,
        )
        relief = F.grid_sample(grid, 2 * place - 1, "bicubic", "border", align_corners=True)
        top, bottom = 0.65 + 0.35 * ends[0], 0.4 * ends[1]
        descent = (torch.arange(height, device=images.device) + 0.5) / height
        descent = corner[0] + self.view * descent
        gradient = top + (bottom - top) * descent[:, None, :, None]
        # Never quite zero: there is air in front of the nearest object too.
        depth = (gradient + 0.5 * (relief - 0.5)).clamp(0.02, 1)
        transmission = torch.exp(-self.beta * depth)
        return self.airlight + (images - self.airlight) * transmission


@dataclass(frozen=True)
class MotionBlur(Single):
    """Straight, uniform motion of the camera during the exposure, averaged in linear light.

    Args:
        length: distance travelled, pixels; valid 1..101.
        angle: direction of travel, degrees anticlockwise from horizontal; valid -180..180.
    """

    kind: ClassVar[str] = "motion_blur"
    length: float = _parameter(9.0, valid=(1, 101))
    angle: float = _parameter(30.0, valid=(-180, 180))

    def _apply(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return _blur(images, self.kernel())

    def kernel(self) -> Tensor:
        """The point spread function: an antialiased line one pixel wide, (K, K), sum 1."""
        # The pixel's own extent adds one to the travel of its centre.
        half = (self.length - 1) / 2
        y, x = _kernel_grid(half + 1)
        cos, sin = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        along, across = x * cos - y * sin, x * sin + y * cos
        distance = torch.hypot((along.abs() - half).clamp(min=0), across)
        line = (1 - distance).clamp(min=0)
        return line / line.sum()


@dataclass(frozen=True)
class DefocusBlur(Single):
    """A lens out of focus: a uniform disk of light, averaged in linear light.

    Args:
        radius: of the disk, pixels; valid 0.5..25.
    """

    kind: ClassVar[str] = "defocus_blur"
    radius: float = _parameter(2.0, valid=(0.5, 25))

    def _apply(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return _blur(images, self.kernel())

    def kernel(self) -> Tensor:
        """The point spread function: an antialiased disk, (K, K), sum 1."""
        y, x = _kernel_grid(self.radius + 0.5)
        disk = (self.radius + 0.5 - torch.hypot(y, x)).clamp(0, 1)
        return disk / disk.sum()


@dataclass(frozen=True)
class LowLight(Single):
    """Under-exposure in linear light, a contrast curve, and the sensor's read noise.

    Args:
        exposure: stops; valid -10..0.
        gamma: exponent on the encoded values, above 1 crushes shadows; valid 0.2..5.
        noise_sigma: standard deviation of Gaussian noise on the 0..255 scale, after darkening;
            valid 0..50.
    """

    kind: ClassVar[str] = "low_light"
    exposure: float = _parameter(-3.0, valid=(-10, 0))
    gamma: float = _parameter(1.1, valid=(0.2, 5))
    noise_sigma: float = _parameter(2.0, valid=(0, 50))

    def _apply(self, images: Tensor, generator: torch.Generator) -> Tensor:
        dark = to_encoded(to_linear(images) * 2.0**self.exposure) ** self.gamma
        noise = torch.randn(images.shape, generator=generator, device=generator.device)
        return dark.add_(noise.to(images.device), alpha=self.noise_sigma / 255)


@dataclass(frozen=True)
class Snow(Single):
    """Falling snow: soft white flakes of very different sizes, drawn out by their fall.

    Args:
        density: flakes per megapixel; valid 0..20000.
        size: diameter of the largest flakes, pixels; valid 1..50.
        streak: distance the nearest flakes fall during the exposure, pixels; valid 0..60.
        angle: direction of fall, degrees from vertical, positive falls to the right; valid
            -60..60.
        opacity: of the densest flakes; valid 0..1.
    """

    kind: ClassVar[str] = "snow"
    density: float = _parameter(6000.0, valid=(0, 20000))
    size: float = _parameter(11.0, valid=(1, 50))
    streak: float = _parameter(4.0, valid=(0, 60))
    angle: float = _parameter(15.0, valid=(-60, 60))
    opacity: float = _parameter(0.9, valid=(0, 1))

    def _apply(self, images: Tensor, generator: torch.Generator) -> Tensor:
        margin = self.size + self.streak
        draws, centre_y, centre_x = scatter(images, self.density, margin, 3, generator)
        # Near flakes are few and large: the number within a distance grows with its cube.
        nearness = 0.2 + 0.8 * draws[0] ** 3
        layer = capsules(
            images,
            centre_y,
            centre_x,
            length=self.streak * nearness,
            width=self.size * nearness,
            angle=torch.deg2rad(self.angle + 30 * (draws[1] - 0.5)),
            opacity=self.opacity * (0.5 + 0.5 * draws[2]),
            soft=True,
        )
        return images + layer * (1 - images)


@dataclass(frozen=True)
class Jpeg(Single):
    """Baseline JPEG: 8-bit YCbCr, 4:2:0 chroma, 8 x 8 DCT, the standard tables scaled by quality.

    The arithmetic of libjpeg and its decoder's smooth chroma upsampling, without the entropy
    coding, which loses nothing.

    Args:
        quality: libjpeg's quality setting, an integer; valid 1..100.
    """

    kind: ClassVar[str] = "jpeg"
    quality: int = _parameter(10, valid=(1, 100))

    def _apply(self, images: Tensor, generator: torch.Generator) -> Tensor:
        batch, _, height, width = images.shape
        given = coding(np.full(batch, self.quality), batch, (height, width))
        tensors = {name: torch.from_numpy(a).to(images.device) for name, a in given.items()}
        return jpeg((images * 255).round(), batch, **tensors) / 255


SINGLES: dict[str, type[Single]] = {
    cls.kind: cls
    for cls in (
        GaussianNoise,
        RainStreaks,
        Haze,
        MotionBlur,
        DefocusBlur,
        LowLight,
        Snow,
        Jpeg,
    )
}
KINDS: tuple[str, ...] = tuple(SINGLES)
"""The kinds that ``parse`` knows."""


def check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a floating-point tensor in [0, 1], got {got}")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        raise ValueError(f"images must have the shape (B, 3, H, W), got {tuple(images.shape)}")


def _kernel_grid(reach: float) -> tuple[Tensor, Tensor]:
    """Row and column offsets from the centre of a kernel whose support ends before ``reach``."""
    side = torch.arange(-math.ceil(reach) + 1.0, math.ceil(reach))
    return side[:, None], side[None, :]


def _blur(images: Tensor, kernel: Tensor) -> Tensor:
    """Convolve each channel in linear light, the borders mirrored; any size of image and kernel."""
    pad = kernel.shape[-1] // 2
    light = to_linear(images)
    for dim in (2, 3):
        size = light.shape[dim]
        # A mirror that may be crossed several times, which F.pad refuses.
        period = max(2 * (size - 1), 1)
        index = torch.arange(-pad, size + pad, device=light.device) % period
        light = light.index_select(dim, torch.minimum(index, period - index))
    blurred = F.conv2d(light.flatten(0, 1)[:, None], kernel[None, None].to(light))
    return to_encoded(blurred.reshape(images.shape))
