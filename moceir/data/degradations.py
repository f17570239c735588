"""Physically parametrised image degradations in plain PyTorch.

Images are floating-point NCHW RGB in [0, 1], sRGB-encoded, of any size from 1 x 1 up; results are
clamped to [0, 1] and keep shape, dtype and device. The arithmetic is done in float32 on the images'
device. Random numbers are drawn on the generator's device, so that a CPU generator gives the same
picture, up to rounding, on every device.

    >>> rainy = parse("haze:beta=1.5,rain")          # light haze, then default rain
    >>> degraded = degrade(images, rainy, seed=3)    # image i draws from generator_for(3, i)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

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
    "random_degradation",
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


def _parameter(default: float, valid: tuple[float, float], training: tuple[float, float]) -> Any:
    """A dataclass field with its closed valid range and the range that ``sample`` draws from."""
    return field(default=default, metadata={"valid": valid, "training": training})


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

    @classmethod
    def sample(cls, generator: torch.Generator) -> _Single:
        """Draw every parameter uniformly from its training range, stated in the class docstring."""
        drawn: dict[str, float] = {}
        for parameter in fields(cls):
            low, high = parameter.metadata["training"]
            u = _uniform(generator)
            if isinstance(parameter.default, int):
                drawn[parameter.name] = low + int(u * (high - low + 1))
            else:
                # Three decimals are finer than anyone can see and keep str() short.
                drawn[parameter.name] = round(low + u * (high - low), 3)
        return cls(**drawn)


@dataclass(frozen=True)
class GaussianNoise(_Single):
    """White Gaussian noise, independent per pixel and channel.

    The protocol of the published denoising tables: the clean picture has 8 bits, the noisy one is
    clipped and truncated (not rounded) to 8 bits.

    Args:
        sigma: standard deviation on the 0..255 scale; valid 0..100, training 5..55.
    """

    kind: ClassVar[str] = "noise"
    sigma: float = _parameter(25.0, valid=(0, 100), training=(5, 55))

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
        density: streaks per megapixel; valid 0..20000, training 1000..8000.
        length: mean streak length, pixels; valid 1..100, training 12..45.
        width: mean streak width, pixels; valid 0.5..10, training 0.8..2.2.
        angle: direction of fall, degrees from vertical, positive falls to the right; valid
            -60..60, training -35..35.
        intensity: opacity of the brightest streaks; valid 0..1, training 0.4..0.9.
    """

    kind: ClassVar[str] = "rain"
    density: float = _parameter(4000.0, valid=(0, 20000), training=(1000, 8000))
    length: float = _parameter(28.0, valid=(1, 100), training=(12, 45))
    width: float = _parameter(1.4, valid=(0.5, 10), training=(0.8, 2.2))
    angle: float = _parameter(12.0, valid=(-60, 60), training=(-35, 35))
    intensity: float = _parameter(0.7, valid=(0, 1), training=(0.4, 0.9))

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
        beta: optical thickness at the greatest depth, dimensionless; valid 0..1000, training
            0.6..3.
        airlight: A, the encoded grey level of the haze itself; valid 0..1, training 0.7..1.
        view: share of the scene's height and width that the image shows, somewhere within the
            scene; valid 0..1, training 0.2..1, so that crops are as hazy as parts of pictures.
    """

    kind: ClassVar[str] = "haze"
    beta: float = _parameter(1.4, valid=(0, 1000), training=(0.6, 3.0))
    airlight: float = _parameter(0.88, valid=(0, 1), training=(0.7, 1.0))
    view: float = _parameter(1.0, valid=(0, 1), training=(0.2, 1.0))

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
        length: distance travelled, pixels; valid 1..101, training 5..21.
        angle: direction of travel, degrees anticlockwise from horizontal; valid -180..180,
            training 0..180.
    """

    kind: ClassVar[str] = "motion_blur"
    length: float = _parameter(9.0, valid=(1, 101), training=(5, 21))
    angle: float = _parameter(30.0, valid=(-180, 180), training=(0, 180))

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
        radius: of the disk, pixels; valid 0.5..25, training 1..4.
    """

    kind: ClassVar[str] = "defocus_blur"
    radius: float = _parameter(2.0, valid=(0.5, 25), training=(1.0, 4.0))

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
        exposure: stops; valid -10..0, training -4.5..-1.5.
        gamma: exponent on the encoded values, above 1 crushes shadows; valid 0.2..5, training
            0.9..1.4.
        noise_sigma: standard deviation of Gaussian noise on the 0..255 scale, after darkening;
            valid 0..50, training 0..6.
    """

    kind: ClassVar[str] = "low_light"
    exposure: float = _parameter(-3.0, valid=(-10, 0), training=(-4.5, -1.5))
    gamma: float = _parameter(1.1, valid=(0.2, 5), training=(0.9, 1.4))
    noise_sigma: float = _parameter(2.0, valid=(0, 50), training=(0, 6))

    def _apply(self, images: Tensor, generator: torch.Generator) -> Tensor:
        dark = _encode(_linear(images) * 2.0**self.exposure) ** self.gamma
        noise = torch.randn(images.shape, generator=generator, device=generator.device)
        return dark.add_(noise.to(images.device), alpha=self.noise_sigma / 255)


@dataclass(frozen=True)
class Snow(_Single):
    """Falling snow: soft white flakes of very different sizes, drawn out by their fall.

    Args:
        density: flakes per megapixel; valid 0..20000, training 2000..9000.
        size: diameter of the largest flakes, pixels; valid 1..50, training 5..16.
        streak: distance the nearest flakes fall during the exposure, pixels; valid 0..60,
            training 0..10.
        angle: direction of fall, degrees from vertical, positive falls to the right; valid
            -60..60, training -35..35.
        opacity: of the densest flakes; valid 0..1, training 0.6..1.
    """

    kind: ClassVar[str] = "snow"
    density: float = _parameter(6000.0, valid=(0, 20000), training=(2000, 9000))
    size: float = _parameter(11.0, valid=(1, 50), training=(5, 16))
    streak: float = _parameter(4.0, valid=(0, 60), training=(0, 10))
    angle: float = _parameter(15.0, valid=(-60, 60), training=(-35, 35))
    opacity: float = _parameter(0.9, valid=(0, 1), training=(0.6, 1.0))

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
        quality: libjpeg's quality setting, an integer; valid 1..100, training 8..60.
    """

    kind: ClassVar[str] = "jpeg"
    quality: int = _parameter(10, valid=(1, 100), training=(8, 60))

    def _apply(self, images: Tensor, generator: torch.Generator) -> Tensor:
        height, width = images.shape[-2:]
        matrix = torch.tensor(_RGB_TO_YCBCR)
        inverse = torch.linalg.inv(matrix).to(images.device)
        rgb = (images * 255).round()
        ycbcr = torch.einsum("ij,bjhw->bihw", matrix.to(images.device), rgb)
        # Chroma is kept centred on zero; the luma is centred just before its DCT.
        ycbcr = F.pad(ycbcr.round(), (0, -width % 16, 0, -height % 16), mode="replicate")
        luma = self._code(ycbcr[:, :1] - 128, _LUMA_TABLE)[..., :height, :width]
        chroma = F.avg_pool2d(ycbcr[:, 1:], 2)
        # libjpeg's integer mean rounds halves down and up in turn, so that the chroma won't drift.
        bias = torch.arange(chroma.shape[-1], device=images.device) % 2 * 0.25 + 0.25
        chroma = self._code((chroma + bias).floor(), _CHROMA_TABLE)
        # The decoder knows the cropped chroma alone, and repeats its last row and column.
        chroma = chroma[..., : (height + 1) // 2, : (width + 1) // 2]
        chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
        decoded = torch.cat((luma + 128, chroma[..., :height, :width].round()), dim=1)
        rgb = torch.einsum("ij,bjhw->bihw", inverse, decoded)
        return rgb.round() / 255

    def _code(self, plane: Tensor, table: tuple[int, ...]) -> Tensor:
        """Quantise the DCT of each 8 x 8 block; (B, C, H, W) with H, W multiples of 8."""
        scale = 5000 // self.quality if self.quality < 50 else 200 - 2 * self.quality
        steps = [min(max((step * scale + 50) // 100, 1), 255) for step in table]
        quantiser = plane.new_tensor(steps).reshape(8, 8)
        frequency, position = torch.arange(8.0)[:, None], torch.arange(8.0)
        dct = 0.5 * torch.cos(math.pi / 8 * frequency * (position + 0.5))
        dct[0] /= math.sqrt(2)
        dct = dct.to(plane)
        batch, channels, height, width = plane.shape
        blocks = plane.reshape(batch, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
        # Eighths are the precision of libjpeg's transform, and it rounds halves away from zero.
        eighths = (dct @ blocks @ dct.T * 8).round()
        levels = (eighths.abs() / (8 * quantiser) + 0.5).floor() * eighths.sign()
        blocks = (dct.T @ (levels * quantiser) @ dct).transpose(3, 4)
        return blocks.reshape(plane.shape).round().clamp(-128, 127)


_RGB_TO_YCBCR = (  # ITU-R BT.601, full range, as JFIF has it
    (0.299, 0.587, 0.114),
    (-0.168735892, -0.331264108, 0.5),
    (0.5, -0.418687589, -0.081312411),
)
# ITU-T T.81, tables K.1 and K.2
_LUMA_TABLE = (
    *(16, 11, 10, 16, 24, 40, 51, 61),
    *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77),
    *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101),
    *(72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA_TABLE = (
    *(17, 18, 24, 47, 99, 99, 99, 99),
    *(18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99),
    *(47, 66, 99, 99, 99, 99, 99, 99),
    *(99,) * 32,
)

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
"""The kinds that ``parse`` and ``random_degradation`` know."""

# From the scene through the optics to the sensor and the file; a mixture takes one kind per stage.
_STAGES = (
    ("haze",),
    ("rain", "snow"),
    ("motion_blur", "defocus_blur"),
    ("low_light",),
    ("noise",),
    ("jpeg",),
)


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


def random_degradation(
    generator: torch.Generator,
    kinds: Sequence[str] = KINDS,
    max_mixture: int = 1,
    mixed: float = 0.5,
    typical: float = 0.0,
    first: int | None = None,
) -> Degradation:
    """Draw a degradation for training, its parameters from the training ranges.

    A share ``mixed`` of the draws are mixtures of 2 to ``max_mixture`` kinds, each number equally
    likely; the rest are single, as all are if ``max_mixture`` is 1. A mixture runs from the scene
    (haze, then rain or snow) through the optics (one blur) to the sensor (low light, noise) and the
    file (JPEG). It has fewer kinds than drawn where ``kinds`` does not offer as many stages.

    A share ``typical`` of the draws has the default parameters, at which results are stated. The
    degradation has the kind of index ``first``, if given, for draws that take every kind in turn.

    Raises:
        ValueError: ``kinds`` is empty or has an unknown name, or ``max_mixture`` is below 1.
    """
    unknown = [kind for kind in kinds if kind not in _SINGLES]
    if unknown or not kinds:
        raise ValueError(f"kinds must be some of {', '.join(KINDS)}, got {list(kinds)}")
    if max_mixture < 1:
        raise ValueError(f"max_mixture must be at least 1, got {max_mixture}")
    count = 1
    if max_mixture > 1 and _uniform(generator) < mixed:
        count = 2 + int(_uniform(generator) * (max_mixture - 1))
    chosen: dict[int, str] = {}
    order = torch.randperm(len(kinds), generator=generator, device=generator.device).tolist()
    for k in order if first is None else (first, *order):
        stage = next(s for s, members in enumerate(_STAGES) if kinds[k] in members)
        chosen.setdefault(stage, kinds[k])
        if len(chosen) == count:
            break
    draw = typical == 0 or _uniform(generator) >= typical
    steps = tuple(
        _SINGLES[chosen[stage]].sample(generator) if draw else _SINGLES[chosen[stage]]()
        for stage in sorted(chosen)
    )
    return steps[0] if len(steps) == 1 else Composition(steps)


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a floating-point tensor in [0, 1], got {got}")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        raise ValueError(f"images must have the shape (B, 3, H, W), got {tuple(images.shape)}")


def _uniform(generator: torch.Generator) -> float:
    return cast(float, torch.rand((), generator=generator, device=generator.device).item())


def _linear(encoded: Tensor) -> Tensor:
    """sRGB code values to linear light (IEC 61966-2-1)."""
    curve = ((encoded.clamp(0, 1) + 0.055) / 1.055) ** 2.4
    return torch.where(encoded <= 0.04045, encoded / 12.92, curve)


def _encode(linear: Tensor) -> Tensor:
    """Linear light to sRGB code values; the inverse of ``_linear``."""
    linear = linear.clamp(0, 1)
    curve = 1.055 * linear ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, 12.92 * linear, curve)


def _kernel_grid(reach: float) -> tuple[Tensor, Tensor]:
    """Row and column offsets from the centre of a kernel whose support ends before ``reach``."""
    side = torch.arange(-math.ceil(reach) + 1.0, math.ceil(reach))
    return side[:, None], side[None, :]


def _blur(images: Tensor, kernel: Tensor) -> Tensor:
    """Convolve each channel in linear light, the borders mirrored; any size of image and kernel."""
    pad = kernel.shape[-1] // 2
    light = _linear(images)
    for dim in (2, 3):
        size = light.shape[dim]
        # A mirror that may be crossed several times, which F.pad refuses.
        period = max(2 * (size - 1), 1)
        index = torch.arange(-pad, size + pad, device=light.device) % period
        light = light.index_select(dim, torch.minimum(index, period - index))
    blurred = F.conv2d(light.flatten(0, 1)[:, None], kernel[None, None].to(light))
    return _encode(blurred.reshape(images.shape))


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
