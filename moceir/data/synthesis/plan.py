"""From a recipe to the stages that make it, in the order of the physics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from moceir.data.counter import Draw
from moceir.data.kinds import KINDS
from moceir.data.synthesis import blur, fall, haze, jpeg, sensor
from moceir.data.synthesis.recipe import Recipe
from moceir.data.synthesis.stage import Stage

Parameters = dict[str, np.ndarray]

_WHERE_NOISE_IS = -3  # a stream of random numbers
_IN_CAMERA = 0.4


def stages(recipe: Recipe, size: tuple[int, int]) -> list[Stage]:
    """What is to be done to pictures of H x W, from the scene to the file.

    Each stage has all patches of a batch that need it. Nothing that is drawn depends on which
    patches these are.
    """
    planned = [haze.plan(m, _draw(recipe, "haze", m)) for m in [_having(recipe, "haze")] if len(m)]
    for room, kinds in (
        (fall, {"rain": fall.rain, "snow": fall.snow}),
        (blur, {"motion_blur": blur.motion, "defocus_blur": blur.defocus}),
    ):
        planned += [room.plan(*part, size) for part in _together(recipe, kinds)]
    planned += _of_the_sensor(recipe)
    filed = _having(recipe, "jpeg")
    if len(filed):
        planned.append(jpeg.plan(filed, _draw(recipe, "jpeg", filed), size))
    return planned


def _having(recipe: Recipe, kind: str) -> np.ndarray:
    """The places in the batch of the patches that have a kind."""
    return np.flatnonzero(recipe.strength[:, KINDS.index(kind)])


def _draw(recipe: Recipe, kind: str, members: np.ndarray) -> Draw:
    stream = KINDS.index(kind)
    return Draw(recipe.seed, recipe.numbers[members], stream, recipe.strength[members, stream])


def _together(
    recipe: Recipe, kinds: Mapping[str, Callable[[Draw], Parameters]]
) -> list[tuple[np.ndarray, Parameters]]:
    """Members and parameters of two kinds: as one, unless a patch has both."""
    parts = [
        (members, parameters(_draw(recipe, kind, members)))
        for kind, parameters in kinds.items()
        if len(members := _having(recipe, kind))
    ]
    everyone = [m for members, _ in parts for m in members]
    return parts if len(parts) < 2 or len(set(everyone)) < len(everyone) else [_joined(parts)]


def _joined(parts: Sequence[tuple[np.ndarray, Parameters]]) -> tuple[np.ndarray, Parameters]:
    names = parts[0][1]
    return np.concatenate([members for members, _ in parts]), {
        name: np.concatenate([given[name] for _, given in parts]) for name in names
    }


def _of_the_sensor(recipe: Recipe) -> list[Stage]:
    """Low light and noise. The noise of a dark picture is its camera's, as that of 4 in 10 others;
    the rest is added to code values."""
    dark, noisy = _having(recipe, "low_light"), _having(recipe, "noise")
    choice = Draw(recipe.seed, recipe.numbers[noisy], _WHERE_NOISE_IS, np.ones(len(noisy)))
    camera = choice.happens(_IN_CAMERA) | np.isin(noisy, dark)
    raw, planned = [], []
    if len(dark):
        given = sensor.low_light(_draw(recipe, "low_light", dark))
        both = np.isin(dark, noisy)
        if both.any():
            more = sensor.camera(_draw(recipe, "noise", dark[both]))
            for variance in ("shot", "read"):
                given[variance][both] += more[variance]
        raw.append((dark, given))
    alone = np.setdiff1d(noisy[camera], dark)
    if len(alone):
        raw.append((alone, sensor.camera(_draw(recipe, "noise", alone))))
    if raw:
        planned.append(sensor.plan_raw(*_joined(raw)))
    flat = noisy[~camera]
    if len(flat):
        planned.append(sensor.plan_flat(flat, _draw(recipe, "noise", flat)))
    return planned
