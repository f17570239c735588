"""Restoring many images on the machines of a Ray cluster.

>>> import moceir
>>> from moceir.integrations import ray
>>> plan = moceir.plan_files("s3://bucket/photos", "s3://bucket/better", manifest="run.jsonl")
>>> ray.restore_files(plan, workers=(1, 64), gpus=1)
{'restored': 9999990, 'failed': 10}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

try:
    import ray
    import ray.data
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error.name} is missing: pip install 'moceir[ray]'", name=error.name
    ) from error

from moceir.errors import ConfigError
from moceir.inference import batch
from moceir.inference.jobs import Job, Outcome, Plan
from moceir.inference.restorer import Restorer
from moceir.pictures.remote import place

_Rows = dict[str, Any]
"""A batch as Ray Data has it: for each column, an array or a list."""


def restore_files(
    plan: Plan,
    *,
    workers: tuple[int, int] = (1, 8),
    cpus: float = 1,
    gpus: float = 0,
    block: int = 100,
    window: int = 100_000,
    report: Callable[[Outcome], None] = lambda outcome: None,
    network: dict[str, Any] | None = None,
    **settings: Any,
) -> dict[str, int]:
    """Restore the images of a plan on a Ray cluster, with Ray Data: each worker is an actor that
    holds the networks. Workers read and write the files themselves, so paths must mean the same
    on all machines: a shared file system, or URLs.

    If a worker or its machine is lost, another one takes over the blocks that it had not returned.
    Images of these whose outputs are there are not restored again but reported as skipped, unless
    the plan overwrites. So is an image whose output another process wrote since it was planned.

    The plan is carried out in this process, which holds one window of it, reports and writes the
    manifest. ``ray.init`` decides which cluster it is; without a call, Ray looks for one or starts
    one on this machine.

    Args:
        plan: from ``plan_files``.
        workers: fewest and most of them. Ray Data adds workers while there is work and room.
        cpus: CPU cores of a worker: it has as many threads.
        gpus: GPUs of a worker; below 1, several share one.
        block: images that a worker is given at once, and restores again if it is lost.
        window: images that are planned at once. Workers start anew for each window, so that it
            should last for minutes.
        report: called with the outcome of each image, in this process.
        network: arguments of ``Restorer``, such as ``{"model": "weights.safetensors"}``.
        settings: ``quality``, ``jobs`` and those of ``Settings``, as ``moceir.restore_files`` takes
            them.

    Returns:
        How many images had which outcome: ``restored``, ``skipped``, ``failed``.

    Raises:
        ConfigError: an argument out of range, or standard input or output in the plan.
        OSError: the manifest cannot be written.
        ray.exceptions.RayError: a worker cannot start, for instance because the weights are not
            there.
    """
    if not 1 <= workers[0] <= workers[1]:
        raise ConfigError(f"workers {workers[0]} to {workers[1]}: give 1 or more, such as (1, 8)")
    if block < 1 or window < block:
        raise ConfigError(f"block {block}, window {window}: give at least 1, and a larger window")
    batch.check_settings(**settings)
    pool = ray.data.ActorPoolStrategy(min_size=workers[0], max_size=workers[1])
    given = {
        "network": {"threads": max(1, int(cpus)), **(network or {})},
        "settings": settings,
        "overwrite": plan.overwrite,
    }
    items = iter(plan)
    with plan.noting(report) as note:
        while rows := list(_rows(islice(items, window), note)):
            blocks = -(-len(rows) // block)
            restored = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
                _Worker,
                batch_size=block,
                compute=pool,
                fn_constructor_kwargs=given,
                num_cpus=cpus,
                num_gpus=gpus,
            )
            for row in restored.iter_rows():
                note(Outcome(**json.loads(row["outcome"])))
    return note.counts


def _rows(
    items: Iterator[Job | Outcome], note: Callable[[Outcome], None]
) -> Iterator[dict[str, str]]:
    """The jobs as rows; what is known already is noted at once."""
    for item in items:
        if isinstance(item, Outcome):
            note(item)
        elif item.source is None or item.target is None:
            raise ConfigError("workers read and write files: give one instead of -")
        elif any(isinstance(p, Path) and not p.is_absolute() for p in (item.source, item.target)):
            raise ConfigError(
                f"{item}: workers have a current folder of their own: give absolute paths or URLs"
            )
        else:
            yield {"source": str(item.source), "target": str(item.target)}


class _Worker:
    """Restores blocks of images with one ``Restorer``."""

    def __init__(self, network: dict[str, Any], settings: dict[str, Any], overwrite: bool) -> None:
        self._restorer = Restorer(**network)
        self._settings, self._overwrite = settings, overwrite

    def __call__(self, rows: _Rows) -> _Rows:
        outcomes: list[Outcome] = []
        plan = Plan(
            [self._item(*row) for row in zip(rows["source"], rows["target"], strict=True)],
            skip_existing=not self._overwrite,
            overwrite=self._overwrite,
        )
        batch.restore_files(plan, self._restorer, report=outcomes.append, **self._settings)
        # Text: the columns of a table would have to be of one type in every block.
        return {"outcome": [json.dumps(vars(outcome)) for outcome in outcomes]}

    def _item(self, source: str, target: str) -> Job | Outcome:
        """A worker that was lost may have written the output."""
        job = Job(place(source), place(target))
        try:
            there = not self._overwrite and job.is_done()
        except OSError as error:
            return Outcome.of_error(job, error)
        return Outcome.of(job, "skipped") if there else job
