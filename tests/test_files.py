"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from moceir.files import whole_file


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

    with pytest.raises(FileExistsError, match="has appeared meanwhile") as caught:
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


def test_a_link_to_nothing_is_something_too(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.symlink_to(tmp_path / "none")
    with pytest.raises(FileExistsError), whole_file(path, overwrite=False):
        pass
    assert list(tmp_path.iterdir()) == [path]
