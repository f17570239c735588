"""Files on other machines that fsspec reaches: s3://bucket/a.png, gs://, https://, memory://.

fsspec, and what it needs for a protocol, are imported when a URL is used.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moceir.errors import ConfigError, first_line
from moceir.pictures.folders import is_picture

WRITTEN = ("s3", "s3a", "gs", "gcs", "memory")
"""Protocols by which a file appears whole or not at all."""

_PROTOCOL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://")


@dataclass(frozen=True)
class Remote:
    """A file or folder by its URL. It has what is needed of ``pathlib.Path``."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Remote:
        return Remote(f"{self.url.rstrip('/')}/{name.replace(os.sep, '/')}")

    @property
    def name(self) -> str:
        return self.url.rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return posixpath.splitext(self.name)[1]

    @property
    def protocol(self) -> str:
        return self.url.partition("://")[0].lower()

    def check(self, written: bool = False) -> None:
        """Refuse what cannot be used, before any work is done for it.

        Raises:
            ConfigError: a package is missing, the protocol is unknown, or it is to be ``written``
                and could be left half written.
        """
        if written and self.protocol not in WRITTEN:
            raise ConfigError(
                f"{self}: results are written to folders of this machine and to "
                f"{', '.join(f'{protocol}://' for protocol in WRITTEN)}",
                "output",
            )
        if self.protocol in ("file", "local"):
            raise ConfigError(f"{self}: a file of this machine: give its path")
        self._opened()

    def _opened(self) -> tuple[Any, str]:
        """The file system, and the path in it."""
        try:
            import fsspec

            # Listings are not kept: memory would grow with every name ever seen.
            return fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except ImportError as error:
            missing = getattr(error.__cause__ or error, "name", None) or "a package"
            raise ConfigError(
                f"{self}: {missing} is missing: pip install 'moceir[remote]'"
            ) from error
        except ValueError as error:
            raise ConfigError(f"{self}: {error}") from error
        except OSError as error:  # some protocols connect here
            reason = error.strerror or first_line(error)
            raise OSError(error.errno or errno.EIO, reason, self.url) from error

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Turns whatever libraries of protocols raise into an OSError that has the URL."""
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.url) from error
        except FileExistsError as error:
            message = "appeared in the meantime and was kept"
            raise FileExistsError(errno.EEXIST, message, self.url) from error
        except Exception as error:
            reason = getattr(error, "strerror", None) or first_line(error)
            number = getattr(error, "errno", None) or errno.EIO
            raise OSError(number, reason, self.url) from error

    def exists(self) -> bool:
        """
        Raises:
            OSError: nobody can tell.
        """
        system, path = self._opened()
        with self._naming():
            return bool(system.exists(path))

    def is_dir(self) -> bool:
        """
        Raises:
            OSError: nobody can tell.
        """
        if self.protocol in ("http", "https"):  # has pages, and no folders
            return self.url.endswith("/")
        system, path = self._opened()
        with self._naming():
            try:
                # Unlike isdir, it does not list the whole folder.
                return system.info(path)["type"] == "directory"
            except FileNotFoundError:
                return False

    def read_bytes(self) -> bytes:
        """
        Raises:
            OSError: it is not there or cannot be read.
        """
        system, path = self._opened()
        with self._naming():
            return system.cat_file(path)

    def write_bytes(self, data: bytes, overwrite: bool) -> None:
        """Upload a file, whole or not at all.

        Raises:
            FileExistsError: the file exists, and ``overwrite`` is false.
            OSError: it cannot be written.
        """
        system, path = self._opened()
        with self._naming():
            system.pipe_file(path, data, mode="overwrite" if overwrite else "create")

    def matches(self) -> list[Remote]:
        """What a pattern such as s3://bucket/*.png matches, in order."""
        system, path = self._opened()
        with self._naming():
            return [Remote(system.unstrip_protocol(found)) for found in sorted(system.glob(path))]

    def walk_names(
        self,
        suffixes: Sequence[str],
        *,
        on_error: Callable[[OSError], None],
        recursive: bool = True,
        skip: Remote | None = None,
    ) -> Iterator[str]:
        """As ``folders.walk_names``. The names of one folder are held at once."""
        system, root = self._opened()
        skipped = skip and skip.url.rstrip("/")
        pending = [""]
        while pending:
            inner = pending.pop()
            folder = self / inner if inner else self
            try:
                with folder._naming():
                    found = system.ls(posixpath.join(root, inner) if inner else root, detail=True)
            except OSError as error:
                on_error(error)
                continue
            inside = []
            for entry in sorted(found, key=lambda entry: entry["name"]):
                own = entry["name"].rstrip("/").rpartition("/")[2]
                name = posixpath.join(inner, own)
                if entry["name"].strip("/") != posixpath.join(root, name).strip("/"):
                    continue  # a page of a web server has links to elsewhere, too
                if entry["type"] == "directory":
                    if not own.startswith(".") and (self / name).url != skipped:
                        inside.append(name)
                elif is_picture(own, suffixes):
                    yield name
            if recursive:
                pending += reversed(inside)


def is_url(text: str) -> bool:
    return _PROTOCOL.match(text) is not None


def place(given: Path | str | Remote) -> Path | Remote:
    """A path of this machine, or what a URL names.

    Raises:
        ConfigError: an empty name, which pathlib takes for the current folder.
    """
    if not isinstance(given, str):
        return given
    if not given:
        raise ConfigError("an empty name: give that of a file or folder")
    return Remote(given) if is_url(given) else Path(given)
