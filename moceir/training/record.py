"""What the folder of a run says about it: its configuration, and what ran each part of it."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
import yaml

from moce_kernels.backends import choose
from moceir import __version__
from moceir.errors import CheckpointError, ConfigError
from moceir.files import make_folder, whole_file
from moceir.training.checkpoint import load_checkpoint
from moceir.training.config import TrainingConfig, plain

_OF_A_CALL = ("run", "max_minutes", "weights")
"""Values that may differ each time a run is continued, and change nothing of what is learned."""

_OF_THE_NETWORK = ("preset", "model.")
"""Two ways to write one network are no change; another network is refused."""


class Before(NamedTuple):
    """Where a run that is to be continued stands."""

    step: int
    values: Mapping[str, Any]
    """Its configuration, as ``moceir.training.config.plain`` gives it."""


def before(last: Path, config: TrainingConfig) -> Before:
    """The run of the checkpoint ``last``.

    Raises:
        CheckpointError: it cannot be read, or is of another network than ``config`` asks for.
    """
    checkpoint = load_checkpoint(last)
    values = checkpoint["training_config"]
    try:
        saved = TrainingConfig(preset=values["preset"], model=values["model"]).network()
    except (ConfigError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{last}: its configuration cannot be used ({error}); choose another --run"
        ) from error
    if saved != config.network():
        raise CheckpointError(
            f"{last} belongs to another network: choose another --run, or the preset and model in "
            f"{last.parent / 'config.yaml'}"
        )
    return Before(checkpoint["global_step"], values)


def changes(values: Mapping[str, Any], config: TrainingConfig) -> dict[str, tuple[Any, Any]]:
    """What ``config`` has other values for than ``values``: by name, what it was and what it is.

    A value that an older version of this package did not have counts as its default.
    """
    default = dict(_flat(plain(TrainingConfig())))
    saved, now = dict(_flat(values)), dict(_flat(plain(config)))
    found = {}
    for name in dict.fromkeys((*now, *saved)):
        if name in _OF_A_CALL or name.startswith(_OF_THE_NETWORK):
            continue
        pair = saved.get(name, default.get(name)), now.get(name)
        if pair[0] != pair[1]:
            found[name] = pair
    return found


def _flat(values: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{section}{name}.")
        else:
            yield f"{section}{name}", value


def write_record(
    config: TrainingConfig,
    device: torch.device,
    about: Mapping[str, Any],
    step: int = 0,
    changed: Mapping[str, tuple[Any, Any]] | None = None,
) -> None:
    """Write ``config.yaml`` as it is now, and add to ``versions.json`` what is about to run.

    Args:
        about: more about it, plain values by name.
        step: at which it begins. What ran from there on before has left nothing, and is dropped.
        changed: values that are others since this step, as ``changes``.
    """
    make_folder(config.run)
    _write(config.run / "config.yaml", yaml.safe_dump(plain(config), sort_keys=False))
    path = config.run / "versions.json"
    parts = json.loads(path.read_text()) if path.exists() else []
    parts = [part for part in parts if part.get("from_step", -1) < step]
    dtype = torch.bfloat16 if config.precision == "bf16-mixed" else torch.float32
    part = {
        "from_step": step,
        "moceir": __version__,
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
        "processes": config.devices * config.nodes,
        "backend": choose("grouped_experts", None, device, dtype),
        **about,
    }
    if changed:
        part["changed"] = {name: list(pair) for name, pair in changed.items()}
    if not parts or _but_when(parts[-1]) != _but_when(part) or changed:
        _write(path, json.dumps([*parts, part], indent=1))


def _but_when(part: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name not in ("from_step", "changed")}


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        with whole_file(path) as temporary:
            temporary.write_text(text)
