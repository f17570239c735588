"""The plain part of YAML: numbers, texts, lists, and names with values.

A configuration comes from whoever wrote the file. Of YAML's other features some take unbounded time
or memory to read (aliases of aliases, merged mappings), some build objects (tags), and some read
what looks like a text as something else (dates): none of them is needed here.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from moceir.errors import ConfigError, first_line, short

MAX_CHARACTERS = 100_000
"""Of a whole text. The recipes in configs/ have up to 2,500."""

MAX_VALUES = 4_000
"""Names, values and brackets of a text, and values after its aliases were replaced."""

MAX_DEPTH = 20
_NESTED = re.compile(rf"(?:[\[{{]\s*){{{MAX_DEPTH + 1}}}")

MAX_LENGTH = 4_096
"""Characters of one name or value: the longest path has no more."""


class _Loader(yaml.SafeLoader):
    """Without what YAML adds to plain values, where it is not asked for by a tag."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if not tag.endswith((":merge", ":timestamp", ":value"))
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_plain_yaml(text: str, where: str) -> Any:
    """The value that a text stands for.

    Args:
        where: the file or option that it comes from, for messages.

    Raises:
        ConfigError: not YAML, or not plain, or too much.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{where}: too long, more than {MAX_CHARACTERS} characters")
    if _NESTED.search(text):  # which the parser takes long for
        raise ConfigError(f"{where}: nested too deeply, more than {MAX_DEPTH} levels")
    try:
        _check_events(text, where)
        value = yaml.load(text, Loader=_Loader)  # a SafeLoader: builds plain values alone
    except ConfigError:
        raise
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not YAML ({_reason(error)})") from None
    except (ValueError, RecursionError) as error:  # a number such as 0x_
        raise ConfigError(f"{where}: not YAML ({first_line(error)})") from None
    _check_size(value, where)
    return value


def _check_events(text: str, where: str) -> None:
    """What can be refused before anything is built of it."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        if number > MAX_VALUES:
            raise ConfigError(f"{where}: too large, more than {MAX_VALUES} names and values")
        if getattr(event, "tag", None) is not None:
            raise ConfigError(f"{where}: has the tag {short(event.tag)}: give a plain value")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_LENGTH:
            raise ConfigError(
                f"{where}: a value of {len(event.value)} characters: give at most {MAX_LENGTH}"
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise ConfigError(f"{where}: nested too deeply, more than {MAX_DEPTH} levels")


def _check_size(value: Any, where: str) -> None:
    """Refuse aliases that make much of little, or a value that contains itself."""
    left, seen = [value], 0
    while left:
        seen += 1
        if seen > MAX_VALUES:
            raise ConfigError(
                f"{where}: its aliases stand for more than {MAX_VALUES} values: write the values "
                "that are meant"
            )
        item = left.pop()
        if isinstance(item, dict):
            left += [*item, *item.values()]
        elif isinstance(item, (list, tuple)):
            left += item


def _reason(error: yaml.YAMLError) -> str:
    """What is wrong and where, on one line."""
    mark = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or first_line(error))[:200]
    return problem if mark is None else f"{problem}, line {mark.line + 1}"
