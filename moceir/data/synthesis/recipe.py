"""What is wrong with each patch of a batch, and how strongly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moceir.data.counter import states, uniforms
from moceir.data.kinds import KINDS

STRENGTHS = {"slight": 0.35, "medium": 0.65, "strong": 0.95}
"""Fixed strengths, for tables: quantiles of those that are trained on."""

STAGES = (
    ("haze",),
    ("rain", "snow"),
    ("motion_blur", "defocus_blur"),
    ("low_light",),
    ("noise",),
    ("jpeg",),
)
"""From the scene through the optics to the sensor and the file; a mixture has one kind of each."""

SEVERAL = "several"
"""The label of a patch with more than one kind."""

_RECIPE, _ROUND = -1, -2  # streams of random numbers; those of the kinds are their places in KINDS


@dataclass(frozen=True)
class Recipe:
    """The degradations of b patches, as functions of a seed and the patches' numbers.

    Args:
        seed: any integer.
        numbers: (b,) integers: everything but the strengths is a function of seed and number.
        strength: (b, 8), the columns as ``KINDS``: 0 for a kind that a patch does not have, else up
            to 1, evenly distributed in training.
    """

    seed: int
    numbers: np.ndarray
    strength: np.ndarray

    def kinds(self) -> list[list[str]]:
        """The names of what is wrong with each patch, in the order of ``KINDS``."""
        return [[KINDS[k] for k in np.flatnonzero(row)] for row in self.strength]


def draw(
    seed: int,
    numbers: Sequence[int] | np.ndarray,
    kinds: Sequence[str] = KINDS,
    max_mixture: int = 1,
    mixed: float = 0.5,
    clean: float = 0.0,
) -> tuple[Recipe, list[str]]:
    """Draw degradations for training.

    Patch i takes entry i modulo their number of ``kinds``, in an order redrawn for every round,
    so that no few batches have much of one kind and little of another. A share ``mixed`` of the
    patches has 2 to ``max_mixture`` kinds, each number equally likely, at most one of each of
    ``STAGES``; fewer where ``kinds`` does not offer as many. A share ``clean`` has none at all. A
    fifth of the noisy ones is also JPEG-compressed, at quality 34 to 95.

    Args:
        seed: any integer.
        numbers: (b,) integers from 0, the patches.
        kinds: some of ``KINDS``; one that is named twice comes twice as often.
        max_mixture: at most so many kinds in one patch.
        mixed: share of the patches with several.
        clean: share of the patches with none.

    Returns:
        The recipe; and the kind of each patch: that whose turn it is if it is clean, ``SEVERAL`` if
        it has several, apart from that JPEG file.

    Raises:
        ValueError: ``kinds`` is empty or has an unknown name, or ``max_mixture`` is below 1.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"kinds must be some of {', '.join(KINDS)}, got {list(kinds)}")
    if max_mixture < 1:
        raise ValueError(f"max_mixture must be at least 1, got {max_mixture}")
    numbers = np.asarray(numbers, dtype=np.int64)
    turns, places = np.divmod(numbers, len(kinds))
    rounds = uniforms(states(seed, turns, _ROUND), 0, len(kinds))
    first = np.take_along_axis(rounds.argsort(1), places[:, None], 1)[:, 0]
    u = uniforms(states(seed, numbers, _RECIPE), 0, 4 + len(KINDS) + len(kinds))
    several = (u[:, 0] < mixed) & (max_mixture > 1)
    count = np.where(several, 2 + np.floor(u[:, 1] * (max_mixture - 1)), 1)
    is_clean = u[:, 2] < clean
    filed = u[:, 3] < 0.2
    strengths = 1 - u[:, 4 : 4 + len(KINDS)]  # in (0, 1]
    orders = u[:, 4 + len(KINDS) :].argsort(1)
    stage_of = {kind: stage for stage, members in enumerate(STAGES) for kind in members}
    strength = np.zeros((len(numbers), len(KINDS)))
    jpeg = KINDS.index("jpeg")
    labels = []
    for i, start in enumerate(first):
        chosen = {stage_of[kinds[start]]: kinds[start]}
        for k in orders[i]:
            if len(chosen) == count[i]:
                break
            chosen.setdefault(stage_of[kinds[k]], kinds[k])
        columns = [KINDS.index(kind) for kind in chosen.values()]
        if not is_clean[i]:
            strength[i, columns] = strengths[i, columns]
            if "noise" in chosen.values() and filed[i] and not strength[i, jpeg]:
                strength[i, jpeg] = 0.6 * strengths[i, jpeg]
        labels.append(SEVERAL if len(chosen) > 1 and not is_clean[i] else kinds[start])
    return Recipe(seed, numbers, strength), labels


def at(
    kind: str, strength: str | float, numbers: Sequence[int] | np.ndarray, seed: int = 0
) -> Recipe:
    """Degradations of fixed strength, for validation and tables.

    Everything that is not the strength (directions, depths, families, grain) is drawn as in
    training, as a function of the seed and the pictures' numbers.

    Args:
        kind: one of ``KINDS``, or several with commas between them.
        strength: one of ``STRENGTHS`` or a number from 0 (nothing) to 1 (the strongest trained on).
        numbers: (b,) integers, the pictures.
        seed: any integer.

    Raises:
        ValueError: an unknown kind, or a strength that is none.
    """
    names = [name.strip() for name in kind.split(",")]
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        raise ValueError(f"unknown degradation {unknown[0]!r}; valid: {', '.join(KINDS)}")
    value = STRENGTHS.get(strength) if isinstance(strength, str) else strength
    if value is None or not 0 <= value <= 1:
        known = ", ".join(STRENGTHS)
        raise ValueError(f"strength must be {known} or a number from 0 to 1, got {strength!r}")
    numbers = np.asarray(numbers, dtype=np.int64)
    strengths = np.zeros((len(numbers), len(KINDS)))
    strengths[:, [KINDS.index(name) for name in names]] = value
    return Recipe(seed, numbers, strengths)
