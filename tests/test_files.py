"""Files are written atomically."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from moceir import files
from moceir.files import check_free, make_folder, prepare_output, whole_file


def test_a_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_usual_rights(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a") as temporary:
        temporary.touch()
    (tmp_path / "b").touch()
    assert os.stat(tmp_path / "a").st_mode == os.stat(tmp_path / "b").st_mode


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "none" / "a"):
        pass


@pytest.mark.parametrize("overwrite", [True, False])
def test_the_disk_has_the_content_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    """Else a power cut may leave the name with nothing behind it."""
    path, events = tmp_path / "a", []
    fsync, publish = os.fsync, "replace" if overwrite else "link"
    name = getattr(os, publish)

    def watched_fsync(descriptor: int) -> None:
        events.append(("fsync", os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size))
        fsync(descriptor)

    def watched_name(source: Path, target: Path) -> None:
        events.append((publish, os.stat(source).st_ino, os.stat(source).st_size))
        name(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, publish, watched_name)
    with whole_file(path, overwrite) as temporary:
        temporary.write_text("new")
    assert events == [("fsync", path.stat().st_ino, 3), (publish, path.stat().st_ino, 3)]


def no_links(source: Path, target: Path) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(source), None, str(target))


@pytest.mark.parametrize("links", [True, False])
def test_what_appears_meanwhile_is_kept_unless_it_is_to_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    path = tmp_path / "a"
    if not links:  # as on FAT
        monkeypatch.setattr(os, "link", no_links)

    def write(overwrite: bool, meanwhile: str | None) -> None:
        with whole_file(path, overwrite) as temporary:
            temporary.write_text("new")
            if meanwhile:
                path.write_text(meanwhile)

    with pytest.raises(FileExistsError, match="appeared in the meantime") as caught:
        write(False, "precious")
    assert caught.value.filename == str(path)
    assert path.read_text() == "precious"
    write(True, "worthless")
    assert path.read_text() == "new"
    path.unlink()
    write(False, None)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_nlink == 1


@pytest.mark.parametrize("overwrite", [False, True])
def test_where_nothing_can_be_written_is_said_before_the_work(
    tmp_path: Path, overwrite: bool
) -> None:
    (tmp_path / "file").write_text("precious")
    check_free(tmp_path / "new" / "sub" / "a.txt", overwrite)
    for inside in ("a.txt", "sub/a.txt"):
        with pytest.raises(NotADirectoryError, match="a file, not a folder") as raised:
            check_free(tmp_path / "file" / inside, overwrite)
        assert raised.value.filename == str(tmp_path / "file")
    with pytest.raises(IsADirectoryError, match="a folder: name a file"):
        check_free(tmp_path, overwrite)
    with pytest.raises(NotADirectoryError, match="a file, not a folder"):
        make_folder(tmp_path / "file")
    for _ in range(2):
        prepare_output(tmp_path / "new" / "sub" / "a.txt")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["sub"]


def test_a_link_to_nothing_is_something_too(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.symlink_to(tmp_path / "none")
    with pytest.raises(FileExistsError), whole_file(path, overwrite=False):
        pass
    assert list(tmp_path.iterdir()) == [path]


def write(path: Path, **options: Any) -> None:
    with whole_file(path, **options) as temporary:
        temporary.write_text("new")


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("source", "replaced", "expected"),
    [
        (0o600, None, 0o600),
        (0o640, None, 0o640),
        (0o666, None, 0o644),  # the umask counts
        (0o444, None, 0o444),
        (0o755, None, 0o644),  # a new file is no program
        (None, 0o600, 0o600),
        (None, 0o664, 0o664),
        (0o600, 0o664, 0o600),
        (0o664, 0o600, 0o600),
    ],
)
def test_a_file_has_no_rights_that_its_source_does_not_have(
    tmp_path: Path, source: int | None, replaced: int | None, expected: int
) -> None:
    origin, path = tmp_path / "origin", tmp_path / "a"
    origin.touch()
    origin.chmod(source or 0o666)
    if replaced is not None:
        path.touch()
        path.chmod(replaced)
    umask = os.umask(0o022)
    try:
        with whole_file(path, source=origin.stat() if source else None) as temporary:
            assert rights(temporary) & ~(expected | 0o700) == 0  # nor while it is written
            temporary.write_text("new")
    finally:
        os.umask(umask)
    assert path.read_text() == "new" and rights(path) == expected


def test_a_file_has_the_date_of_its_source(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    origin.touch()
    os.utime(origin, ns=(5, 1_000_000_001))
    write(tmp_path / "a", source=origin.stat())
    assert (tmp_path / "a").stat().st_mtime_ns == origin.stat().st_mtime_ns


def test_another_group_has_the_rights_of_others(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    origin.touch()
    origin.chmod(0o640)
    fields = list(origin.stat())
    fields[5] += 1  # st_gid
    write(tmp_path / "a", source=os.stat_result(fields, {"st_atime_ns": 0, "st_mtime_ns": 0}))
    assert rights(tmp_path / "a") == 0o600


def test_the_umask_is_never_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one for all threads: their files would get the wrong rights meanwhile."""

    def changed(mask: int) -> int:
        raise AssertionError(f"umask {mask:o}")

    monkeypatch.setattr(os, "umask", changed)
    write(tmp_path / "a")


@pytest.mark.parametrize("refused", ["chmod", "chown", "utime", "fsync"])
def test_what_a_file_system_has_not_costs_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    path, origin = tmp_path / "a", tmp_path / "origin"
    for file in (path, origin):
        file.write_text("old")
    path.chmod(0o664)
    origin_status = origin.stat()

    def refuse(*args: object, **options: object) -> None:
        code = errno.EINVAL if refused == "fsync" else errno.EPERM
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, refused, refuse)
    write(path, source=origin_status)
    assert path.read_text() == "new"
    assert sorted(names(tmp_path)) == ["a", "origin"]


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fails_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError) as caught:
        write(tmp_path / "a")
    assert (caught.value.errno, caught.value.filename) == (code, str(tmp_path / "a"))
    assert names(tmp_path) == []


def test_messages_never_name_the_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").touch()
    for path in (tmp_path / "none" / "a", tmp_path / "folder"):
        with pytest.raises(OSError) as caught:
            write(path)
        assert ".part" not in str(caught.value) and str(path) in str(caught.value)
    with pytest.raises(OSError) as caught, whole_file(tmp_path / "a") as temporary:
        temporary.unlink()
        temporary.read_text()
    assert ".part" not in str(caught.value) and str(tmp_path / "a") in str(caught.value)
    assert names(tmp_path) == ["folder"]


def test_what_killed_runs_left_is_removed_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with whole_file(path) as first, whole_file(path) as second:
        left = [path.with_name(f".a.{number}.part") for number in (2, 3)]
        for leftover in left:  # nobody has locked them
            leftover.write_text("half")
        other = tmp_path / ".b.0.part"
        other.write_text("half")
        first.write_text("first")
        second.write_text("second")
        write(path)
        assert path.read_text() == "new"
        assert not any(leftover.exists() for leftover in left)
        assert first.read_text() == "first" and second.read_text() == "second"
    assert path.read_text() == "first"
    assert sorted(names(tmp_path)) == [".b.0.part", "a"]


def test_links_and_pipes_are_no_leftovers(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("old")
    (tmp_path / ".a.0.part").symlink_to(precious)
    os.mkfifo(tmp_path / ".a.1.part")
    write(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "new" and precious.read_text() == "old"
    assert (tmp_path / ".a.0.part").is_symlink()


def test_without_locks_nothing_is_taken_for_a_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "fcntl", None)
    (tmp_path / ".a.0.part").write_text("perhaps another process's")
    write(tmp_path / "a")
    assert sorted(names(tmp_path)) == [".a.0.part", "a"]


def test_what_appears_after_the_last_look_is_kept_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a file system has no hard links, and a rename would replace it."""
    path = tmp_path / "a"
    lexists = os.path.lexists
    monkeypatch.setattr(os, "link", no_links)

    def appears_then(name: Path) -> bool:
        found = lexists(name)
        if name == path:
            path.write_text("precious")
        return found

    monkeypatch.setattr(os.path, "lexists", appears_then)
    with pytest.raises(FileExistsError, match="appeared in the meantime"):
        write(path, overwrite=False)
    assert path.read_text() == "precious" and names(tmp_path) == ["a"]
