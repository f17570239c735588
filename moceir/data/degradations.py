"""Physically parametrised image degradations in plain PyTorch.

Images are floating-point NCHW RGB in [0, 1], sRGB-encoded, of any size from 1 x 1 up; results are
clamped to [0, 1] and keep shape, dtype and device. The arithmetic is done in float32 on the images'
device. Random numbers are drawn on the generator's device, so that a CPU generator gives the same
picture, up to rounding, on every device. What networks are trained on, a whole batch at once, is in
``moceir.data.synthesis``.

    >>> rainy = parse("haze:beta=1.5,rain")          # light haze, then default rain
    >>> degraded = degrade(images, rainy, seed=3)    # image i draws from generator_for(3, i)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moceir.data.jpeg import coding, jpeg
from moceir.data.light import to_encoded, to_linear

__all__ = [
    "KINDS",
    "Composition",
    "DefocusBlur",
    "Degradation",
    "GaussianNoise",
    "Haze",
    "Jpeg",
    "LowLight",
    "MotionBlur",
    "RainStreaks",
    "Snow",
    "degrade",
    "generator_for",
    "parse",
]


class Degradation(ABC):
    """Something that happens to a picture; a callable, ``(images, generator) -> images``."""

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
        _check_images(images)
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
class _Single(Degradation):
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
class GaussianNoise(_Single):
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
class RainStreaks(_Single):
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
        draws, centre_y, centre_x = _scatter(images, self.density, margin, 4, generator)
        layer = _capsules(
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
class Haze(_Single):
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
class MotionBlur(_Single):
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
class DefocusBlur(_Single):
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
class LowLight(_Single):
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
class Snow(_Single):
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
        draws, centre_y, centre_x = _scatter(images, self.density, margin, 3, generator)
        # Near flakes are few and large: the number within a distance grows with its cube.
        nearness = 0.2 + 0.8 * draws[0] ** 3
        layer = _capsules(
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
class Jpeg(_Single):
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


_SINGLES: dict[str, type[_Single]] = {
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
KINDS: tuple[str, ...] = tuple(_SINGLES)
"""The kinds that ``parse`` knows."""


@dataclass(frozen=True)
class Composition(Degradation):
    """Several degradations one after the other.

    Args:
        steps: in order of application, at least one; compositions among them are flattened.

    Raises:
        TypeError: a step is not a degradation.
        ValueError: there is no step.
    """

    steps: tuple[Degradation, ...]

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError("a composition needs at least one degradation")
        flat: list[Degradation] = []
        for step in self.steps:
            if not isinstance(step, Degradation):
                raise TypeError(f"a composition is made of degradations, got {step!r}")
            flat.extend(step.steps if isinstance(step, Composition) else (step,))
        object.__setattr__(self, "steps", tuple(flat))

    def _apply(self, images: Tensor, generator: torch.Generator) -> Tensor:
        for step in self.steps:
            images = step(images, generator)
        return images

    def __str__(self) -> str:
        """The text which ``parse`` turns back into this composition."""
        return ",".join(str(step) for step in self.steps)


def parse(text: str) -> Degradation:
    """Read a degradation from text such as ``rain,haze`` or ``noise:sigma=50,jpeg:quality=10``.

    Commas separate degradations, applied from left to right; colons separate a kind and its
    parameters. A parameter that is not given has its default.

    Returns:
        A ``Composition`` if there are several parts, else the one degradation.

    Raises:
        ValueError: unknown kind or parameter, or a value out of range; says what is valid.
    """
    steps = tuple(_parse_single(part.strip()) for part in text.split(","))
    return steps[0] if len(steps) == 1 else Composition(steps)


def _parse_single(text: str) -> Degradation:
    kind, *assignments = (token.strip() for token in text.split(":"))
    if kind not in _SINGLES:
        raise ValueError(f"unknown degradation {kind!r}; valid: {', '.join(KINDS)}")
    names = [parameter.name for parameter in fields(_SINGLES[kind])]
    values: dict[str, float] = {}
    for assignment in assignments:
        name, equals, value = (token.strip() for token in assignment.partition("="))
        if name not in names or not equals:
            raise ValueError(
                f"{kind}: expected NAME=VALUE with a name from {', '.join(names)}, "
                f"got {assignment!r}"
            )
        if name in values:
            raise ValueError(f"{kind}: {name} is given twice")
        try:
            values[name] = float(value)
        except ValueError:
            raise ValueError(f"{kind}: {name} must be a number, got {value!r}") from None
    return _SINGLES[kind](**values)


def degrade(
    images: Tensor,
    degradation: Degradation | Sequence[Degradation],
    seed: int,
    first: int = 0,
) -> Tensor:
    """Degrade a batch, image i with the randomness of ``generator_for(seed, first + i)``.

    What becomes of an image depends on its content, its place in the batch and the seed, never on
    the other images.

    Args:
        images: (B, 3, H, W), floating point, RGB in [0, 1].
        degradation: one for all images, or one for each.
        seed: any integer.
        first: number of the first image, where the batch is a part of a larger one.

    Returns:
        A new tensor like ``images``, in [0, 1].

    Raises:
        TypeError, ValueError: as ``Degradation.__call__``; or not one degradation per image.
    """
    _check_images(images)
    each = (
        [degradation] * len(images) if isinstance(degradation, Degradation) else list(degradation)
    )
    if len(each) != len(images):
        raise ValueError(f"{len(images)} images need as many degradations, got {len(each)}")
    degraded = torch.empty_like(images)
    for i, one in enumerate(each):
        degraded[i : i + 1] = one(images[i : i + 1], generator_for(seed, first + i))
    return degraded


def generator_for(seed: int, index: int) -> torch.Generator:
    """A CPU generator for the image at ``index``, unrelated to those of other seeds and indices."""
    # The finaliser of SplitMix64, twice: torch's generator keeps 32 bits of a seed, and a sum of
    # the two numbers would give (1, 2) and (2, 1) the same picture.
    state = 0
    for number in (seed, index):
        state = (state + number + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return torch.Generator().manual_seed(state)


def _check_images(images: Tensor) -> None:
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


def _scatter(
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
"""Samples that ``_capsules`` evaluates at a time, which bounds its memory for large images."""


def _capsules(
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
