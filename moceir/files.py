"""Files that are written atomically."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""How file systems refuse fsync that have none. A full or broken disk says something else."""


def shown(path: object) -> str:
    """A path as it is printed: on one line, whatever is in the name."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path))


def described(error: OSError) -> str:
    """What went wrong with which file, without the number of the error."""
    if not error.strerror:
        return str(error)
    return f"{shown(error.filename)}: {error.strerror}" if error.filename else error.strerror


def check_free(path: Path, overwrite: bool = False) -> None:
    """Refuse to write where it cannot be done, before any work is done for it.

    Raises:
        FileExistsError: the file exists, and ``overwrite`` is false.
        IsADirectoryError: it is a folder.
        NotADirectoryError: it would lie in a file.
    """
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, "a folder: name a file", str(path))
    if not overwrite and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "already there", str(path))
    above = next((folder for folder in path.parents if os.path.lexists(folder)), None)
    if above is not None and not os.path.isdir(above):
        raise _in_the_way(above)


def make_folder(folder: Path) -> None:
    """With those above it, unless it is there.

    Raises:
        NotADirectoryError: a file has its name.
        OSError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise _in_the_way(folder) from error


def prepare_output(path: Path) -> None:
    """Before long work that ends in a file, which is written or replaced: makes its folder.

    Raises:
        OSError: nothing can be written there.
    """
    check_free(path, overwrite=True)
    make_folder(path.parent)


def _in_the_way(path: Path) -> NotADirectoryError:
    return NotADirectoryError(errno.ENOTDIR, "a file, not a folder: name another", str(path))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts a name into the OSErrors that have none: those of a disk that is full, mostly."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def whole_file(
    path: Path, overwrite: bool = True, source: os.stat_result | None = None
) -> Iterator[Path]:
    """A temporary file next to ``path``, which is renamed to it if the block succeeds.

    A new file has the usual permissions. One that replaces another takes over its owner and
    permissions, as far as the file system allows. Neither ever has more than ``source`` has.

    The temporary file is locked while this process lives, so that the next call for the same path
    can recognise and remove what a killed process left behind.

    Args:
        path: the file's place; its folder exists.
        overwrite: replace an existing file of this name at the end.
        source: the file this one is made from, whose modification date it gets.

    Raises:
        FileExistsError: the file exists, and ``overwrite`` is false.
        OSError: the disk is full, the folder is not writable, ...; ``path`` is as it was before.
            It names ``path``, never the temporary file.
    """
    try:
        replaced = _regular(path) if overwrite else None
        temporary, lock = _create(path, _allowed(source) & _allowed(replaced))
        try:
            yield temporary
            _sync(temporary)
            _take_over(temporary, source, replaced)
            if overwrite:
                os.replace(temporary, path)
            else:
                _rename_to_new(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            if lock is not None:
                os.close(lock)  # not before the name is gone: it would look like a leftover
    except OSError as error:
        # A full disk names no file; the temporary one means nothing to anybody.
        if error.errno is not None and (
            error.filename is None or _is_temporary(error.filename, path)
        ):
            error.filename, error.filename2 = str(path), None
        raise


def _regular(path: Path) -> os.stat_result | None:
    with contextlib.suppress(OSError):
        status = path.lstat()
        return status if stat.S_ISREG(status.st_mode) else None
    return None


def _allowed(status: os.stat_result | None) -> int:
    """A file's permissions to read and write."""
    return 0o666 if status is None else status.st_mode & 0o666


def _start(path: Path) -> str:
    name = path.name.encode(errors="ignore")[:80].decode(errors="ignore")  # names have 255 bytes
    return f".{name}."


def _is_temporary(name: object, path: Path) -> bool:
    base = os.path.basename(os.fsdecode(name)) if isinstance(name, (str, bytes, Path)) else ""
    return base.startswith(_start(path)) and base.endswith(".part")


def _create(path: Path, mode: int) -> tuple[Path, int | None]:
    """A new locked file, and the descriptor that holds its lock, if there are locks. The kernel
    applies the umask: reading it would require changing it, for all threads.

    Leftovers are looked for under the names that are tried anyway: listing a folder of many
    thousand results for each of them would be slow.
    """
    created: tuple[Path, int | None] | None = None
    for number in itertools.count():
        temporary = path.with_name(f"{_start(path)}{number}.part")
        there = os.path.lexists(temporary)
        if there and not _remove_leftover(temporary):
            continue  # another process is writing there
        if created is not None:
            if not there:
                return created
            continue
        try:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode | 0o600)
        except FileExistsError:
            continue
        if fcntl is None:  # nor could Windows rename a file that is open
            os.close(descriptor)
            created = temporary, None
        elif _lock(descriptor) is not False and _names(temporary, descriptor):
            created = temporary, descriptor
        else:
            os.close(descriptor)  # taken for a leftover before it was locked
    raise AssertionError("unreachable")


def _lock(descriptor: int) -> bool | None:
    """Whether the file is locked now; None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _names(path: Path, descriptor: int) -> bool:
    """Whether the name still belongs to the open file."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove_leftover(temporary: Path) -> bool:
    """Remove a file that no living process is writing; returns whether it is gone."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(temporary, flags)
    except FileNotFoundError:
        return True
    except OSError:  # a link, or another user's
        return False
    try:
        if _lock(descriptor) and _names(temporary, descriptor):
            os.unlink(temporary)
            return True
        return False
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _sync(temporary: Path) -> None:
    with open(temporary, "rb+") as written:
        try:
            os.fsync(written.fileno())
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise


def _take_over(
    temporary: Path, source: os.stat_result | None, replaced: os.stat_result | None
) -> None:
    """Permissions and date. FAT, SMB and others have no permissions and refuse to set them: a
    complete file is not discarded for that, and none was created with more than it may have."""
    if replaced is not None:
        with contextlib.suppress(OSError):
            if hasattr(os, "chown"):
                os.chown(temporary, replaced.st_uid, replaced.st_gid)
    status = temporary.stat()
    mode = stat.S_IMODE(status.st_mode if replaced is None else replaced.st_mode) & 0o777
    for origin in (source, replaced):
        if origin is None:
            continue
        may = stat.S_IMODE(origin.st_mode)
        if origin.st_gid != status.st_gid:  # its group are others here, and the other way round
            may = may & ~0o070 | (may & 0o007) << 3
        mode &= may | 0o111
    with contextlib.suppress(OSError):
        if mode != stat.S_IMODE(status.st_mode):
            temporary.chmod(mode)
    if source is not None:
        with contextlib.suppress(OSError):
            os.utime(temporary, ns=(source.st_atime_ns, source.st_mtime_ns))


def _rename_to_new(temporary: Path, path: Path) -> None:
    """Unlike a rename, a hard link never replaces what is there."""
    message = "appeared in the meantime and was kept"
    try:
        os.link(temporary, path)
    except OSError as error:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, message, str(path)) from error
        # Missing hard links are reported in many ways; an empty file then reserves the name.
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            raise FileExistsError(errno.EEXIST, message, str(path)) from error
        try:
            os.replace(temporary, path)
        except BaseException:
            path.unlink()
            raise
    else:
        temporary.unlink()
