"""Which picture becomes which file: a plan that is made while it is carried out."""

from __future__ import annotations

import errno
import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

from moceir.errors import ConfigError, PictureError, check_several
from moceir.files import described, shown
from moceir.inference import sources
from moceir.inference.jobs import Job, Outcome, Plan
from moceir.inference.manifest import Claims, Manifest
from moceir.inference.sources import DASH, FOLDER_SUFFIXES, Found, Unusable
from moceir.pictures.remote import Remote, place

AHEAD = 1000
"""Pictures that are found, and checked, before the first is restored."""

_CHECKS = 32
"""Requests at once that look whether outputs on another machine exist."""


@dataclass(frozen=True)
class Shard:
    """One of several equal shares of the pictures. The name of its result decides where a picture
    belongs, so that two that would become one file are in the same share."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Of text such as ``2/8``, from ``1/8`` to ``8/8``.

        Raises:
            ConfigError: it is something else.
        """
        number, _, count = text.partition("/")
        if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
            return cls(int(number), int(count))
        raise ConfigError(f"shard {text!r}: give one such as 1/4, 2/4, 3/4 or 4/4", "shard")

    def has(self, name: str) -> bool:
        digest = hashlib.blake2b(os.fsencode(name.replace(os.sep, "/")), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.number - 1


def plan_files(
    inputs: Path | str | Iterable[Path | str],
    output: Path | str,
    *,
    files: Iterable[Path | str] | None = None,
    recursive: bool = True,
    ext: str | None = None,
    suffix: str = "",
    skip_existing: bool = False,
    overwrite: bool = False,
    shard: str | None = None,
    manifest: Path | str | None = None,
) -> Plan:
    """Decide which images become which files. Nothing is written, and no image is opened.

    Folders are read as the plan is gone through, in little memory however many images there are.
    Of the first 1,000 images, conflicts are raised here; a later one fails alone, when it is its
    turn: its output exists, or another image has the same. So do missing inputs, folders without
    images and folders that cannot be read, which never stop the rest.

    Inputs and output may be URLs such as ``s3://bucket/folder``: ``pip install 'moceir[remote]'``.

    Args:
        inputs: files, folders, glob patterns (unless a file has that very name), or ``-`` for
            standard input. With ``files``: the folder that they are in.
        output: a file for a single image; a folder, in which outputs get the names of the inputs
            and the structure of input folders; or ``-`` for standard output.
        files: restore these instead of all images in the folder: paths that are relative to it, or
            begin with it.
        recursive: descend into subfolders.
        ext: format and file extension of the outputs, such as ``png``; None: the input's.
        suffix: appended to the names of the outputs, before the extension.
        skip_existing: skip images whose output exists.
        overwrite: replace existing outputs.
        shard: ``i/n``, from ``1/n`` to ``n/n``: only this one of n shares of the images, each image
            in one of them. The name of the output decides, not the order of a listing.
        manifest: a file in which ``restore_files`` notes each image, as a line of JSON. If it is
            there, images that it has as restored or skipped are left out, and outputs that exist
            without being in it, as a killed run may leave them, are skipped.

    Raises:
        ConfigError: arguments that contradict each other; two images with the same output; a URL
            that cannot be used here; a manifest that is not one.
        PictureError: ``ext`` is no format that images are written in.
        FileExistsError: an output exists, and neither ``skip_existing`` nor ``overwrite`` is set.
        OSError: the manifest cannot be read.
    """
    if skip_existing and overwrite:
        raise ConfigError("skip_existing and overwrite: choose one")
    given = [inputs] if isinstance(inputs, (str, Path)) else inputs
    noted = None if manifest is None else Manifest(manifest)
    skip_existing |= noted is not None and noted.resumed and not overwrite
    planner = _Planner(
        [place(i) for i in given],
        place(output),
        files=files,
        recursive=recursive,
        ext=ext,
        suffix=suffix,
        skip_existing=skip_existing,
        overwrite=overwrite,
        shard=None if shard is None else Shard.parse(shard),
        manifest=noted,
    )
    items = planner.items()
    seen = list(islice(items, AHEAD + 1))
    first = [item for item in seen if item is not None]
    planner.may_raise = False
    if planner.there:
        more = f" (and {len(planner.there) - 1} more)" if len(planner.there) > 1 else ""
        raise FileExistsError(errno.EEXIST, f"already there{more}", str(planner.there[0].target))
    return Plan(
        first if len(seen) <= AHEAD else chain(first, (i for i in items if i is not None)),
        ext=ext,
        skip_existing=skip_existing,
        overwrite=overwrite,
        manifest=noted,
    )


_Item = Job | Outcome | None
"""Of a picture that was found; None: it is not of this run, but of another shard, say."""


class _Planner:
    """Makes a plan, item by item."""

    def __init__(
        self,
        inputs: Sequence[Path | Remote],
        output: Path | Remote,
        *,
        files: Iterable[Path | str] | None,
        recursive: bool,
        ext: str | None,
        suffix: str,
        skip_existing: bool,
        overwrite: bool,
        shard: Shard | None,
        manifest: Manifest | None,
    ) -> None:
        self._inputs, self._output, self._files = inputs, output, files
        self._recursive, self._suffix = recursive, suffix
        self._skip_existing, self._overwrite, self._shard = skip_existing, overwrite, shard
        self._ending = None if ext is None else f".{ext.lstrip('.')}"
        for argument, text in (("ext", self._ending or ""), ("suffix", suffix)):
            if "/" in text or os.sep in text:
                raise ConfigError(
                    f"{argument} {text!r}: give part of a file name, without folders", argument
                )
        for remote in (*inputs, output):
            if isinstance(remote, Remote):
                remote.check(written=remote is output)
        self._folders = [i for i in inputs if i != DASH and sources.is_folder(i)]
        check_several("files", files)
        if files is not None and len(inputs) != 1:
            raise ConfigError("with a list of files, give the one folder that they are in")
        if files is not None:
            self._folders = [*inputs]
        self._is_complete = self._names_the_result()
        if self._is_complete and (ext or suffix):
            raise ConfigError(
                f"{shown(output)} is a complete file name: leave ext and suffix out, or give "
                "a folder",
                "output",
            )
        if not self._is_complete and _is_file(output):
            raise ConfigError(f"{shown(output)} is a file: give a folder for the results", "output")
        if self._is_named_like_a_picture() and self._several():
            raise ConfigError(
                f"{shown(output)} is the name of one image: give a folder for several", "output"
            )
        if self._ending is not None:
            from moceir.pictures.codec import writable  # with its libraries, which take a second

            writable(self._ending)
        self._claims: Claims | None = None
        if manifest or files is not None or ext or self._folders != [*inputs] or self._overlap():
            self._claims = Claims()
        if manifest and self._claims:
            manifest.read(self._claims)
        self._names_given = self._given_names()
        self.may_raise = True
        """Whether a conflict is raised; else the picture fails."""
        self.there: list[Job] = []
        """Whose outputs exist already."""

    def _names_the_result(self) -> bool:
        """Whether the output is the name of a file, not of a folder: for a single picture."""
        if self._output == DASH or not self._output.suffix or len(self._inputs) != 1:
            return False
        if self._files is not None or self._output.is_dir():
            return False
        try:
            found = sources.matches(self._inputs[0])
        except PictureError:
            return False  # said when it is its turn
        return len(found) == 1 and not sources.is_folder(found[0])

    def _several(self) -> bool:
        """Whether more than one picture may be meant; a folder may hold many."""
        if len(self._inputs) > 1 or self._folders:
            return True
        try:
            return any(len(sources.matches(given)) > 1 for given in self._inputs)
        except PictureError:
            return False  # said when it is its turn

    def _is_named_like_a_picture(self) -> bool:
        """Whether the output, which is no folder yet, has a picture's suffix."""
        return self._output.suffix.lower() in FOLDER_SUFFIXES and not self._output.is_dir()

    def _overlap(self) -> bool:
        """Whether the results are written where more pictures may still be found."""
        if len(self._folders) != 1:
            return True
        output, folder = self._output, self._folders[0]
        if isinstance(output, Remote) or isinstance(folder, Remote):
            return f"{str(folder).rstrip('/')}/".startswith(f"{str(output).rstrip('/')}/")
        inside = os.path.join(os.path.realpath(folder), "")
        return inside.startswith(os.path.join(os.path.realpath(output), ""))

    def _given_names(self) -> set[str]:
        """Of pictures that are given one by one, where results may lie beside them."""
        names: set[str] = set()
        folders = set(self._folders)
        for given in self._inputs if self._suffix else ():
            if given not in folders and given != DASH:
                try:
                    names |= {path.name for path in sources.matches(given)}
                except PictureError:
                    continue  # said when it is its turn
        return names

    def items(self) -> Iterator[_Item]:
        if not isinstance(self._output, Remote):
            return map(self._checked, self._planned())
        return self._checked_at_once()

    def _checked_at_once(self) -> Iterator[_Item]:
        """A request for each picture, and the next ones do not wait for its answer."""
        with ThreadPoolExecutor(_CHECKS, "check") as pool:
            waiting: deque[Future[_Item]] = deque()
            for item in self._planned():
                waiting.append(pool.submit(self._checked, item))
                if len(waiting) > _CHECKS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _checked(self, item: _Item) -> _Item:
        """What is to be done about a picture whose output may exist."""
        if not isinstance(item, Job) or self._overwrite:
            return item
        try:
            if not item.is_done():
                return item
        except OSError as error:
            return Outcome.of_error(item, error)
        if self._skip_existing:
            return Outcome.of(item, "skipped")
        if self.may_raise:
            self.there.append(item)
        there = FileExistsError(errno.EEXIST, "already there", str(item.target))
        failed = Outcome.of(item, "").failed(there, f"{described(there)}: skip or replace it")
        failed.argument = "skip_existing"
        return failed

    def _planned(self) -> Iterator[_Item]:
        """Every picture with the place of its result, and what failed already."""
        if self._files is not None:
            found = sources.listed(self._files, self._inputs[0])
        else:
            stdin_name = f"stdin{self._ending or '.png'}"
            found = sources.find(self._inputs, self._output, self._recursive, stdin_name)
        number = 0
        for picture in found:
            if isinstance(picture, Unusable):
                failed = Outcome(str(picture.given), str(self._output), "")
                yield failed.failed(picture.error, picture.reason)
                continue
            item = self._item(picture)
            number += item is not None
            if self._output == DASH and number > 1:
                raise ConfigError("standard output takes one image: give a folder", "output")
            yield item

    def _item(self, found: Found) -> _Item:
        head, end = os.path.splitext(found.name)
        name = f"{head}{self._suffix}{self._ending or end}"
        if self._shard and not self._shard.has(name):
            return None
        if self._output == DASH:
            return Job(found.source, None)
        target = self._output if self._is_complete else self._output / name
        job = Job(found.source, target, None if self._is_complete else name)
        try:
            return job if self._claims is None else self._unless_claimed(job, self._claims)
        except OSError as error:  # nobody can tell whether something is there
            return Outcome.of_error(job, error)

    def _unless_claimed(self, job: Job, claims: Claims) -> _Item:
        source, target = str(job.source or DASH), str(job.target)
        inside = self._name_in_output(job.source)
        if inside is not None and self._is_result(source, inside, claims):
            return None
        other = claims.claim(target, source)
        if other == source or (other and os.path.abspath(other) == os.path.abspath(source)):
            return None  # named twice, or done by an earlier run
        if other is None and self._replaces_given(job):
            other = target  # a picture too, and its own result
        if other is None:
            return job
        error = ConfigError(
            f"{shown(other)} and {shown(source)} would both become {shown(target)}: give each an "
            "output folder of its own"
        )
        if self.may_raise:
            raise error
        return Outcome.of(job, "").failed(error, str(error))

    def _replaces_given(self, job: Job) -> bool:
        """Whether the result would replace another picture that is given."""
        if self._suffix or job.name is None or job.source == job.target:
            return False
        target = self._results + job.name
        if target not in self._given_files and not target.startswith(self._given_folders):
            return False
        return _exists(job.target) and not _is_same(job.source, job.target)

    @cached_property
    def _given_folders(self) -> tuple[str, ...]:
        """Those in which results may lie. One that has the folder of results in it leaves that
        out."""
        places = (_inside(folder) for folder in self._folders)
        return tuple(place for place in places if place.startswith(self._results))

    @cached_property
    def _results(self) -> str:
        return _inside(self._output)

    @cached_property
    def _given_files(self) -> set[str]:
        places: set[str] = set()
        for given in self._inputs:
            if given != DASH and given not in self._folders:
                try:
                    matches = sources.matches(given)
                except PictureError:
                    continue  # said when it is its turn
                places |= {
                    str(m) if isinstance(m, Remote) else _inside(m.parent) + m.name for m in matches
                }
        return places

    @cached_property
    def _output_prefix(self) -> str:
        if isinstance(self._output, Remote):
            return f"{self._output.url.rstrip('/')}/"
        return os.path.join(os.path.abspath(self._output), "")

    def _name_in_output(self, source: Path | Remote | None) -> str | None:
        """Of a picture that lies where results are written."""
        if source is None or isinstance(source, Remote) != isinstance(self._output, Remote):
            return None
        path = source.url if isinstance(source, Remote) else os.path.abspath(source)
        prefix = self._output_prefix
        return path[len(prefix) :] if path.startswith(prefix) else None

    def _is_result(self, source: str, name: str, claims: Claims) -> bool:
        """Whether a picture among the results, ``name``, is one: of this run, or of an earlier run
        from another picture that is given."""
        if claims.source_of(str(self._output / name)) not in (None, source):
            return True
        head, end = os.path.splitext(name)
        if not self._suffix or not head.endswith(self._suffix) or end != (self._ending or end):
            return False
        origin = head.removesuffix(self._suffix)
        ends = (
            [end] if self._ending is None else [*FOLDER_SUFFIXES, *map(str.upper, FOLDER_SUFFIXES)]
        )
        return any(
            origin + end in self._names_given
            or any(_exists(folder / (origin + end)) for folder in self._folders)
            for end in ends
        )


def _exists(path: Path | Remote | None) -> bool:
    return path.exists() if isinstance(path, Remote) else path is not None and os.path.lexists(path)


def _inside(folder: Path | Remote) -> str:
    """How paths in a folder begin, whichever links lead to it."""
    return (
        str(folder / "")
        if isinstance(folder, Remote)
        else os.path.join(os.path.realpath(folder), "")
    )


def _is_same(source: Path | Remote | None, target: Path | Remote | None) -> bool:
    return isinstance(source, Path) and isinstance(target, Path) and source.samefile(target)


def _is_file(output: Path | Remote) -> bool:
    return isinstance(output, Path) and output != DASH and output.exists() and not output.is_dir()
