"""Degrading many pictures, by a plan as for restoring them."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable

from moceir.data.degradations import Degradation, degrade_file, parse
from moceir.errors import ConfigError
from moceir.inference.jobs import Job, Outcome, Plan


def degrade_files(
    plan: Plan,
    degradation: Degradation | str,
    seed: int = 0,
    *,
    report: Callable[[Outcome], None] = lambda outcome: None,
) -> dict[str, int]:
    """Degrade the images of a plan. An image that fails does not stop the rest.

    In a folder of results, each image has randomness of its own, which depends on the seed and on
    the name of its result there, not on the other images.

    Args:
        plan: from ``plan_files``. If it has a manifest, each image is noted there.
        degradation: or a string for ``parse``, such as ``rain,haze`` or ``noise:sigma=50``.
        seed: any integer.
        report: called with the outcome of each image as soon as it is known.

    Returns:
        How many images had which outcome: ``degraded``, ``skipped``, ``failed``.

    Raises:
        ValueError: a string that ``parse`` rejects.
        OSError: the manifest cannot be written.
    """
    kind = parse(degradation) if isinstance(degradation, str) else degradation
    with plan.noting(report) as note:
        for item in plan:
            note(_degraded(item, kind, seed, plan) if isinstance(item, Job) else item)
    return note.counts


def _degraded(job: Job, kind: Degradation, seed: int, plan: Plan) -> Outcome:
    number = 0 if job.name is None else zlib.crc32(os.fsencode(job.name.replace(os.sep, "/")))
    try:
        if job.source is None or job.target is None:
            raise ConfigError("degrade reads and writes files: give one instead of -")
        notes = degrade_file(
            job.source, job.target, kind, seed, number=number, overwrite=plan.overwrite
        )
    except Exception as error:
        if plan.skip_existing and job.is_kept(error):
            return Outcome.of(job, "skipped")  # another process was there before
        return Outcome.of_error(job, error)
    return Outcome.of(job, "degraded", notes=notes)
