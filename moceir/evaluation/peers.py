"""Classical methods without learning, as baselines for networks.

What a network gains counts for little where one of these gains as much. ``-m peer:bm3d`` stands
for weights in ``moceir evaluate`` and ``python -m moceir.evaluation.synthetic``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moceir.errors import ConfigError, PictureError
from moceir.pictures.pixels import LUMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

BM3D_SMALLEST = 16
"""Shortest side that ``bm3d`` is given: the library crashes on pictures of 8 x 8."""

CLIPPED = 0.5
"""Per cent of the values at each end of a channel that ``auto_levels`` clips."""

PATCH, OMEGA, T0, BRIGHTEST = 15, 0.95, 0.1, 0.001
"""He et al.: side of the dark channel's patch, share of the haze that is removed, the least
transmission, and the share of pixels that the airlight is looked for in."""

GUIDED_RADIUS, GUIDED_EPS = 60, 1e-3
"""Of the guided filter: half the side of its windows in pixels, and its regulariser."""


@dataclass(frozen=True)
class Peer:
    """A classical method.

    Args:
        kinds: the degradations that it is for, some of ``KINDS``.
        restore: ``(image, sigma) -> image``; (3, H, W) float32, RGB in [0, 1], on the CPU. sigma:
            of the picture's noise on the 0..255 scale where it is known, else None.
        packages: distributions that it needs, each with the name of its module.
        extra: what brings them.
        knows_sigma: it cannot do without sigma.
    """

    kinds: tuple[str, ...]
    restore: Callable[[Tensor, float | None], Tensor]
    packages: dict[str, str]
    extra: str = "eval"
    knows_sigma: bool = False


def find_peer(name: str) -> Peer:
    """A method by its name in ``PEERS``.

    Raises:
        ConfigError: there is none of that name, or a package that it needs is missing.
    """
    if name not in PEERS:
        raise ConfigError(f"unknown peer {name!r}: choose {', '.join(PEERS)}")
    peer = PEERS[name]
    for package, module in peer.packages.items():
        try:
            import_module(module)
        except ModuleNotFoundError:
            raise ConfigError(
                f"peer:{name} needs {package}: pip install 'moceir[{peer.extra}]'"
            ) from None
    return peer


def versions(peer: Peer) -> dict[str, str]:
    """The installed versions of the packages that a method needs."""
    return {package: version(package) for package in peer.packages}


def bm3d(image: Tensor, sigma: float | None = None) -> Tensor:
    """Colour BM3D (Dabov et al. 2007; the authors' package, which is free for non-commercial use).

    Args:
        image: (3, H, W) in [0, 1].
        sigma: of the white noise, on the 0..255 scale; None: estimated from the picture.

    Raises:
        PictureError: a side is shorter than 16 pixels.
    """
    from bm3d import BM3DProfile, bm3d_rgb
    from bm3d import bm3d as bm3d_grey

    height, width = image.shape[1:]
    if min(height, width) < BM3D_SMALLEST:
        raise PictureError(
            f"BM3D needs {BM3D_SMALLEST} x {BM3D_SMALLEST} pixels, and the image has "
            f"{width} x {height}"
        )
    pixels = _pixels(image)
    profile = BM3DProfile()
    profile.num_threads = 1  # several threads add in another order each time
    deviation = _noise(pixels) if sigma is None else sigma / 255
    if np.ptp(pixels, axis=2).max() == 0:  # bm3d_rgb divides by the range of the colours
        grey = bm3d_grey(pixels[..., 0], deviation, profile)
        return _image(np.repeat(grey[..., None], 3, axis=2))
    return _image(bm3d_rgb(pixels, deviation, profile))


def nlm(image: Tensor) -> Tensor:
    """Non-local means (Buades et al. 2005) of scikit-image, the noise estimated from the picture.

    Patches of 5 x 5 in windows of 13 x 13 and h = 0.6 sigma, as in scikit-image's example.
    """
    from skimage.restoration import denoise_nl_means

    pixels = _pixels(image)
    sigma = _noise(pixels)
    if sigma == 0:  # h = 0 would divide by zero
        return image.clone()
    return _image(
        denoise_nl_means(
            pixels, patch_size=5, patch_distance=6, h=0.6 * sigma, sigma=sigma, channel_axis=-1
        )
    )


def dark_channel(image: Tensor) -> Tensor:
    """Dark channel prior (He et al. 2009) with a guided filter (He et al. 2013), grey guide.

    Near every pixel of a clear photo something is dark in one channel; what light is there in a
    hazy one is airlight.
    """
    hazy = image.double()
    dark = _darkest(hazy)
    brightest = dark.flatten().topk(max(1, int(BRIGHTEST * dark.numel()))).indices
    candidates = hazy.flatten(1)[:, brightest]
    # Not 0, by which is divided: the picture may be black.
    airlight = candidates[:, candidates.sum(0).argmax()].clamp(min=1 / 255)[:, None, None]
    transmission = 1 - OMEGA * _darkest(hazy / airlight)
    transmission = _guided_filter(_grey(hazy), transmission).clamp(T0, 1)
    return ((hazy - airlight) / transmission + airlight).clamp(0, 1).float()


def _darkest(image: Tensor) -> Tensor:
    """(H, W): the least value of all channels in the patch about each pixel of (3, H, W)."""
    lowest = -image.amin(0, keepdim=True)
    half = PATCH // 2
    lowest = F.max_pool2d(lowest, (PATCH, 1), 1, (half, 0))
    return -F.max_pool2d(lowest, (1, PATCH), 1, (0, half))[0]


def _guided_filter(guide: Tensor, values: Tensor) -> Tensor:
    """Smooth (H, W) values along the edges of a (H, W) guide; windows are cut at the border."""
    mean_guide, mean_values = _box(guide), _box(values)
    variance = _box(guide * guide) - mean_guide**2
    slope = (_box(guide * values) - mean_guide * mean_values) / (variance + GUIDED_EPS)
    return _box(slope) * guide + _box(mean_values - slope * mean_guide)


def _box(values: Tensor) -> Tensor:
    """The mean over the part of each pixel's window that lies in (H, W)."""
    side = 2 * GUIDED_RADIUS + 1
    columns = F.avg_pool2d(values[None], (side, 1), 1, (GUIDED_RADIUS, 0), count_include_pad=False)
    return F.avg_pool2d(columns, (1, side), 1, (0, GUIDED_RADIUS), count_include_pad=False)[0]


def auto_levels(image: Tensor) -> Tensor:
    """Stretch each channel so that its percentiles 0.5 and 99.5 become 0 and 1.

    Each channel by itself, as photo editors do under this name, which takes away casts; the joint
    form is known as automatic contrast.
    """
    from skimage.exposure import rescale_intensity

    stretched = image.numpy().copy()
    for channel in stretched:
        low, high = np.percentile(channel, (CLIPPED, 100 - CLIPPED))
        if low < high:  # else it is flat, and stays
            channel[:] = rescale_intensity(channel, (low, high), (0, 1))
    return torch.from_numpy(stretched)


def gamma(image: Tensor) -> Tensor:
    """Raise the code values to the power by which their mean luminance would become 0.5."""
    mean = _grey(image).mean().clamp(1 / 255, 254 / 255)  # black and white have no such power
    return image ** (math.log(0.5) / math.log(mean))


def _grey(image: Tensor) -> Tensor:
    return torch.einsum("chw,c->hw", image, torch.tensor(LUMA, dtype=image.dtype))


def _noise(pixels: NDArray[np.float64]) -> float:
    """Standard deviation of the noise of (H, W, 3), estimated from the finest wavelets."""
    from skimage.restoration import estimate_sigma

    if pixels.min() == pixels.max():  # no noise at all, and nothing to take a median of
        return 0.0
    return float(estimate_sigma(pixels, channel_axis=-1, average_sigmas=True))


def _pixels(image: Tensor) -> NDArray[np.float64]:
    """(H, W, 3) of (3, H, W)."""
    return image.permute(1, 2, 0).double().contiguous().numpy()


def _image(pixels: NDArray[np.float64]) -> Tensor:
    """The opposite of ``_pixels``, clamped to [0, 1]."""
    return torch.from_numpy(pixels).permute(2, 0, 1).clamp(0, 1).float().contiguous()


_SCIKIT = {"scikit-image": "skimage"}
_NOISE = {**_SCIKIT, "PyWavelets": "pywt"}

PEERS = {
    "bm3d": Peer(("noise",), lambda image, _: bm3d(image), {"bm3d": "bm3d", **_NOISE}, "peers"),
    "bm3d_true_sigma": Peer(("noise",), bm3d, {"bm3d": "bm3d"}, "peers", knows_sigma=True),
    "nlm": Peer(("noise",), lambda image, _: nlm(image), _NOISE),
    "dark_channel": Peer(("haze",), lambda image, _: dark_channel(image), {}),
    "auto_levels": Peer(("haze", "low_light"), lambda image, _: auto_levels(image), _SCIKIT),
    "gamma": Peer(("low_light",), lambda image, _: gamma(image), {}),
}
"""``bm3d_true_sigma`` is given the true sigma, which is unknown for a real photo."""
