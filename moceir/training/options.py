"""A training configuration from a YAML file and the command line.

A file has the fields of ``TrainingConfig`` by name, sections within sections; ``--a.b VALUE`` on
the command line replaces one of them, and VALUE is read as YAML.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moceir.errors import ConfigError, short
from moceir.training.config import TrainingConfig
from moceir.training.plain_yaml import MAX_CHARACTERS, read_plain_yaml

HELP = """moceir train [--config FILE] [--NAME VALUE ...]: train a network.

FILE is YAML with any of the names below, nested by section, as in the repository's configs/. On
the command line, --NAME VALUE overrides the file, as in --data.crop 96.
"""


def parse(arguments: Sequence[str]) -> TrainingConfig:
    """The configuration given by a command line.

    Raises:
        ConfigError: a file that cannot be read, an unknown name, or a value that does not fit.
        SystemExit: ``--help`` was printed.
    """
    values: dict[str, Any] = {}
    words = iter(arguments)
    for word in words:
        if word in ("-h", "--help"):
            print(help_text())
            raise SystemExit(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise ConfigError(f"{word!r}: give values as --NAME VALUE")
        if not equals:
            following = next(words, None)
            if following is None:
                raise ConfigError(f"--{name}: give it a value")
            value = following
        if name == "config":
            _merge(values, read_yaml(Path(value)))
        else:
            *sections, last = name.split(".")
            nested: dict[str, Any] = {last: read_plain_yaml(value, f"--{name}")}
            for section in reversed(sections):
                nested = {section: nested}
            _merge(values, nested)
    return build(values)


def read_yaml(path: Path) -> dict[str, Any]:
    """The values of a configuration file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: a folder, pipe or device: name a file")
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8: save it as plain text in UTF-8") from None
    values = read_plain_yaml(text, str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: give names and values, such as steps: 1000")
    return values


def build(values: Mapping[str, Any]) -> TrainingConfig:
    """A configuration from plain values, the inverse of ``moceir.training.config.plain``.

    Raises:
        ConfigError: an unknown name or a value that does not fit.
    """
    return _convert(values, TrainingConfig, "")


def help_text() -> str:
    """Every name, as the configuration's classes describe it."""
    parts = [HELP]

    def describe(kind: Any, section: str) -> None:
        title = f"{section}.*" if section else "NAME"
        parts.append(f"{title}\n    {(kind.__doc__ or '').strip()}\n")
        for name, hint in typing.get_type_hints(kind).items():
            if dataclasses.is_dataclass(hint):
                describe(hint, f"{section}.{name}" if section else name)

    describe(TrainingConfig, "")
    return "\n".join(parts)


def _merge(values: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        if isinstance(value, Mapping) and isinstance(values.get(name), dict):
            _merge(values[name], value)
        else:
            values[name] = dict(value) if isinstance(value, Mapping) else value


def _convert(value: Any, hint: Any, where: str) -> Any:
    """``value``, as read from YAML, in the type that a field has."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _section(value, hint, where)
    if origin in (types.UnionType, typing.Union):  # X | None
        (kind,) = [a for a in arguments if a is not type(None)]
        return None if value is None else _convert(value, kind, where)
    if origin is list and isinstance(value, (list, tuple)):
        return [_convert(v, arguments[0], f"{where}[{i}]") for i, v in enumerate(value)]
    if origin is tuple and isinstance(value, (list, tuple)) and len(value) == len(arguments):
        kinds = zip(value, arguments, strict=True)
        return tuple(_convert(v, kind, f"{where}[{i}]") for i, (v, kind) in enumerate(kinds))
    if origin is dict and isinstance(value, Mapping):
        return {str(k): _convert(v, arguments[1], f"{where}.{k}") for k, v in value.items()}
    if hint is object:
        return value
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value)  # YAML reads 1e-3, without a decimal point, as a string
            if math.isfinite(number):
                return number
    if hint is int and type(value) is int and abs(value) < 2**63:
        return value
    if hint is bool and isinstance(value, bool):
        return value
    if hint in (str, Path) and isinstance(value, (str, int, float, Path)):
        return hint(str(value)) if hint is Path else str(value)
    names = {
        float: "a finite number",
        int: "a whole number of at most 18 digits",
        bool: "true or false",
        str: "a text",
    }
    many = {list: "a list, such as [a, b]", tuple: f"{len(arguments)} values, such as [1, 2]"}
    wanted = names.get(hint) or many.get(typing.get_origin(hint), str(hint).replace("pathlib.", ""))
    raise ConfigError(f"{where} is {short(value)}: give {wanted}")


def _section(value: Any, kind: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{where or 'the configuration'} is {short(value)}: give names and values"
        )
    hints = typing.get_type_hints(kind)
    found = {}
    for name, item in value.items():
        path = f"{where}.{name}" if where else str(name)
        if name not in hints:
            close = difflib.get_close_matches(str(name), hints, 1)
            advice = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(hints)}"
            raise ConfigError(f"unknown name {short(path)}: {advice}")
        found[name] = _convert(item, hints[name], path)
    return kind(**found)
