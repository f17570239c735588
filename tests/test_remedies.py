"""What messages tell people to do can be done: options, extras, variables and pages exist."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import importlib.util
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

from moce_kernels import precompile
from moceir.commands.main import main
from moceir.evaluation import experts, synthetic
from moceir.evaluation.peers import PEERS
from moceir.training import slices
from moceir.training.config import TrainingConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]


class Message(NamedTuple):
    place: str
    """File and line."""
    text: str
    """What is filled in stands as ``{}``."""

    @property
    def file(self) -> str:
        return self.place.partition(":")[0]


def messages_of(path: Path) -> Iterator[Message]:
    """Every text of a file that has words in it, but for docstrings and the like."""
    tree = ast.parse(path.read_text())
    silent = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            silent |= {id(part) for part in node.values}
            parts = [p.value if isinstance(p, ast.Constant) else "{}" for p in node.values]
            text = "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if id(node) not in silent and " " in text:
            yield Message(f"{path.relative_to(ROOT)}:{node.lineno}", text)


MESSAGES = [
    message
    for package in ("moceir", "moce_kernels")
    for path in sorted((ROOT / package).rglob("*.py"))
    for message in messages_of(path)
]


def found(pattern: str) -> list[tuple[str, Message]]:
    """Each match of a pattern in a message."""
    hits = [(hit, message) for message in MESSAGES for hit in re.findall(pattern, message.text)]
    assert hits, f"no message has {pattern}: this test looks for nothing"
    return hits


def options(command: Any) -> set[str]:
    names = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    for below in getattr(command, "commands", {}).values():
        names |= options(below)
    return names


def fields(kind: Any = TrainingConfig, section: str = "") -> set[str]:
    """The names of a training configuration, and its sections."""
    names = set()
    for name, hint in typing.get_type_hints(kind).items():
        names.add(section + name)
        if dataclasses.is_dataclass(hint):
            names |= fields(hint, f"{section}{name}.")
    return names


def arguments_of_kernels(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The options of ``python -m moce_kernels.precompile``."""
    names: set[str] = set()

    def add(parser: argparse.ArgumentParser, *flags: str, **settings: Any) -> None:
        names.update(flags)

    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", add)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", lambda *args: sys.exit())
    with pytest.raises(SystemExit):
        precompile.main()
    return names


def test_options_exist_where_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    training = {f"--{name}" for name in fields()} | {"--config", "--a.b", "--help"}
    own = {name: options(command) for name, command in main.commands.items()}
    everywhere = set().union(*own.values(), options(main), training)
    of_file = {f"moceir/commands/{name}.py": own[name] for name in own}
    of_file |= {
        "moceir/commands/train.py": training,
        "moceir/training/slices.py": options(slices.main) | training,
        "moceir/evaluation/experts.py": options(experts.main),
        "moceir/evaluation/synthetic.py": options(synthetic.main),
        "moceir/evaluation/methods.py": own["evaluate"],
        "moceir/evaluation/protocol.py": own["evaluate"] & own["routes"],
        "moceir/web/app.py": own["app"],
        "moce_kernels/precompile.py": arguments_of_kernels(monkeypatch),
    }
    assert all((ROOT / file).exists() for file in of_file)
    wrong = []
    for hit, message in found(r"(docker run )?(?<![\w-])(--[a-zA-Z][\w.-]*\w)"):
        docker, option = hit
        known = of_file.get(message.file, everywhere)
        if message.file.startswith("moceir/training/") and message.file not in of_file:
            known = training
        if option == "--debug":
            known = options(main)
            if "moceir --debug" not in message.text:
                wrong.append(f"{message.place}: --debug stands before the command: {message.text}")
        if not docker and option not in known and option != "--NAME":
            wrong.append(f"{message.place}: {option} in {message.text!r}")
    assert not wrong, "\n".join(wrong)


def test_libraries_name_no_option() -> None:
    """They name arguments, to which commands add the option. Training has one name for both."""
    programs = ("moceir/commands/", "moceir/training/", "moceir/evaluation/synthetic.py")
    named = [
        f"{message.place}: {message.text!r}"
        for message in MESSAGES
        if message.file.startswith("moceir/") and not message.file.startswith(programs)
        if re.search(r"(?<![\w-])--[a-z]", message.text)
    ]
    assert not named, "\n".join(named)


def test_names_of_a_configuration_exist() -> None:
    names = fields()
    sections = "|".join(sorted({n.partition(".")[0] for n in names if "." in n}))
    wrong = [
        f"{message.place}: {name} in {message.text!r}"
        for name, message in found(rf"(?<![\w.-])((?:{sections})\.[a-z_]+)(?![\w(])")
        if name not in names and message.file.startswith("moceir/training")
    ]
    assert not wrong, "\n".join(wrong)


def test_what_is_to_be_installed_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for extra, message in found(r"pip install '?moceir\[(\w+)\]"):
        assert extra in extras, message
    assert {peer.extra for peer in PEERS.values()} - {None} <= set(extras)
    from moceir.pictures.codec import _PLUGINS

    formats = {requirement.partition(">")[0] for requirement in extras["formats"]}
    assert set(_PLUGINS.values()) <= formats
    for name, message in found(r"pip install '?([^\s']+)"):
        assert name.startswith("moceir[") or name == "{}", message


def test_commands_and_modules_exist() -> None:
    for name, message in found(r"(?<![\w/])(?<!from )moceir (?!\{)([a-z]+)(?= |`|$|,|\))"):
        assert name in main.commands, message
    for name, message in found(r"python -m ([\w.]+)"):
        assert importlib.util.find_spec(name) is not None, message


def test_names_in_python_exist() -> None:
    for name, message in found(r"\b((?:moceir|moce_kernels)(?:\.\w+)+)(?![\w\[])"):
        module, _, last = name.rpartition(".")
        known = hasattr(importlib.import_module(module), last)
        assert known or importlib.util.find_spec(name) is not None, message


def test_variables_are_read() -> None:
    code = [*ROOT.glob("setup.py"), *(ROOT / "csrc").rglob("*.*"), *ROOT.glob("moce*/**/*.py")]
    text = "\n".join(path.read_text() for path in code if path.suffix in (".py", ".cpp", ".h"))
    of_others = {"TRITON_INTERPRET", "TRITON_CACHE_DIR", "ATEN_CPU_CAPABILITY"}
    for name, message in found(r"\b((?:MOCE|TRITON|ATEN)_[A-Z_]+)\b"):
        assert name in of_others or re.search(rf'["\']{name}["\']', text), message


def test_pages_exist() -> None:
    for name, message in found(r"\b((?:docs|configs)/[\w./#-]*[\w/])"):
        path, _, anchor = name.partition("#")
        assert (ROOT / path).exists(), message
        if anchor:
            heads = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in heads}
            assert anchor in anchors, message


def test_every_command_answers_help() -> None:
    from click.testing import CliRunner

    def walk(command: click.Command, words: list[str]) -> None:
        result = CliRunner().invoke(main, [*words, "--help"])
        assert result.exit_code == 0 and result.output, words
        for name, below in getattr(command, "commands", {}).items():
            walk(below, [*words, name])

    walk(main, [])
