"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path, overwrite: bool = True) -> Iterator[Path]:
    """A temporary file beside ``path`` to write to, which takes its name when the block succeeds.

    Args:
        path: the file's place; its folder exists.
        overwrite: replace what bears this name at the end.

    Raises:
        FileExistsError: something bears this name, and ``overwrite`` is false.
        OSError: the disk is full, the folder is not writable, ...; ``path`` is as it was before.
    """
    start = path.name.encode(errors="ignore")[:80].decode(errors="ignore")  # names have 255 bytes
    handle, name = tempfile.mkstemp(prefix=f".{start}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        # mkstemp lets the owner alone read; a new file is to have the usual rights.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        if overwrite:
            os.replace(temporary, path)
        else:
            _rename_to_new(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            error.filename = str(path)  # a full disk names no file
        raise


def _rename_to_new(temporary: Path, path: Path) -> None:
    """Unlike a rename, a hard link never replaces what is there."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if os.path.lexists(path):
            message = "has appeared meanwhile, and is kept"
            raise FileExistsError(errno.EEXIST, message, str(path)) from error
        # Filesystems without hard links say so in many ways; if it is something else, this fails.
        os.rename(temporary, path)
    else:
        temporary.unlink()
