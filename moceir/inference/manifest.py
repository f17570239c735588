"""What a run has done, noted in a file, so that it can be resumed: a line of JSON per picture."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moceir.errors import ConfigError
from moceir.files import shown

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from moceir.inference.jobs import Outcome

DONE = ("restored", "degraded", "skipped")
"""Outcomes after which a picture is not looked at again."""

_START = b'{"input": '
"""How lines begin."""


class Claims:
    """Which output belongs to which input. Millions fit: they lie in a temporary file, which the
    system removes, and little of it in memory."""

    def __init__(self) -> None:
        self._table = sqlite3.connect("", check_same_thread=False)
        for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -16384"):
            self._table.execute(f"PRAGMA {setting}")
        self._table.execute(
            "CREATE TABLE claims (output BLOB PRIMARY KEY, input BLOB) WITHOUT ROWID"
        )

    def claim(self, output: str, source: str) -> str | None:
        """Note that an output is made from an input, unless another claimed it; returns the input
        that did, or None."""
        row = os.fsencode(output), os.fsencode(source)
        if self._table.execute("INSERT OR IGNORE INTO claims VALUES (?, ?)", row).rowcount:
            return None
        return self.source_of(output)

    def source_of(self, output: str) -> str | None:
        """The input that an output is made from, if one claimed it."""
        query = "SELECT input FROM claims WHERE output = ?"
        row = self._table.execute(query, (os.fsencode(output),)).fetchone()
        return os.fsdecode(row[0]) if row else None


class Manifest:
    """The file in which a run notes what became of each picture.

    One run at a time writes it: it is locked meanwhile, where there are locks.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.resumed = self.path.exists()
        """Whether an earlier run has begun it."""
        self.done = 0
        """Pictures that earlier runs restored or skipped."""
        self._size = 0
        self._file: int | None = None

    def read(self, claims: Claims) -> None:
        """Claim the outputs of pictures that are done.

        Raises:
            ConfigError: a line is not what a manifest has.
            OSError: the file cannot be read.
        """
        if not self.resumed:
            return
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    if not line.startswith(_START[: len(line)]):
                        raise self._foreign(number)
                    break  # a run was killed while it wrote this
                self._size += len(line)
                record = self._record(number, line)
                if record["outcome"] in DONE:
                    self.done += claims.claim(record["output"], record["input"]) is None

    def _record(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(line)
            if all(isinstance(record[name], str) for name in ("input", "output", "outcome")):
                return record
        except (ValueError, KeyError, TypeError):
            pass
        raise self._foreign(number)

    def _foreign(self, number: int) -> ConfigError:
        return ConfigError(
            f"{shown(self.path)}: line {number} is not of a manifest: give another file", "manifest"
        )

    def open(self) -> None:
        """Begin to write. What a killed run left of its last line is removed.

        Raises:
            BlockingIOError: another run is writing it, or has written since it was read.
            OSError: it cannot be written.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self._file = os.open(self.path, flags, 0o666)
        try:
            self._prepare(self._file)
        except BaseException:
            self.close()
            raise

    def _prepare(self, file: int) -> None:
        in_use = BlockingIOError(
            errno.EWOULDBLOCK, "another run is writing it: give each its own", str(self.path)
        )
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise in_use from None
            except OSError:
                pass  # a file system without locks
        end = os.fstat(file).st_size
        os.lseek(file, self._size, os.SEEK_SET)
        if end < self._size or b"\n" in os.read(file, end - self._size):
            raise OSError(
                errno.ESTALE, "changed since the plan was made: plan again", str(self.path)
            )
        os.ftruncate(file, self._size)

    def write(self, outcome: Outcome) -> None:
        """Append a line.

        Raises:
            OSError: the disk is full, ...
        """
        assert self._file is not None
        size = None if outcome.width is None else [outcome.width, outcome.height]
        record = {
            "input": outcome.input,
            "output": outcome.output,
            "outcome": outcome.status,
            "message": outcome.error or "; ".join(outcome.notes) or None,
            "seconds": outcome.seconds,
            "size": size,
        }
        line = json.dumps(record).encode() + b"\n"
        while line:
            line = line[os.write(self._file, line) :]

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
