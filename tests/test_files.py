"""Files are replaced whole, and what killed writers left is recognised and swept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ofatvm.files import (
    exchange,
    intended_name,
    read_file,
    remove_leftovers,
    replace_file,
    scratch,
    sweep_once,
)


def test_a_file_is_replaced_and_nothing_else_stays(tmp_path: Path) -> None:
    replace_file(tmp_path / "a.txt", b"one")
    replace_file(tmp_path / "a.txt", b"two")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.txt": b"two"}


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"three")
    assert read_file(path, 5) == b"three"
    with pytest.raises(OSError, match="larger than") as caught:
        read_file(path, 4)
    assert caught.value.filename == str(path)


def test_what_is_no_ordinary_file_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    endless = tmp_path / "endless"
    endless.symlink_to("/dev/zero")
    for path in (pipe, endless):
        with pytest.raises(OSError, match="no ordinary file") as caught:
            read_file(path)
        assert caught.value.filename == str(path)
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none")


def test_a_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(OSError, match="/proc/self/mem"):
        read_file(Path("/proc/self/mem"))


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    dead, living = tmp_path / ".a.txt.999999999", tmp_path / f".a.txt.{os.getpid()}"
    others = [tmp_path / ".hidden", tmp_path / "b.txt.999999999"]
    for path in (dead, living, *others):
        path.touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {p.name for p in (living, *others)}
    remove_leftovers(tmp_path / "none")


def test_scratch_folders_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    with scratch("run", tmp_path) as folder:
        name = folder.name
    sweep_once.cache_clear()
    own = f"-{os.getpid()}-"
    assert own in name
    dead = tmp_path / name.replace(own, "-999999999-")
    others = [tmp_path / name, tmp_path / "ofatvm-run-999999999-elsewhere-abcdefgh"]
    others += [tmp_path / "ofatvm-run-abcdefgh", tmp_path / "mine-999999999-abcdefgh"]
    for path in (dead, *others):
        (path / "inside").mkdir(parents=True)
    link = dead.with_name(f"{dead.name[:-8]}abcdefgh")
    link.symlink_to(others[0])
    with scratch("test", tmp_path) as folder:
        assert folder.parent == tmp_path
        (folder / "a").touch()
    assert set(tmp_path.iterdir()) == {*others, link}
    assert (others[0] / "inside").exists()


def test_a_scratch_folder_goes_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="odd"), scratch("test", tmp_path):
        raise ValueError("odd")
    assert list(tmp_path.iterdir()) == []


def test_names_that_files_will_have() -> None:
    assert intended_name(".a.txt.12") == "a.txt"
    assert [intended_name(name) for name in ("a.txt", ".git", ".a.b")] == ["a.txt", ".git", ".a.b"]


def test_two_folders_change_names_at_once(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / folder.name).touch()
    assert exchange(one, other)
    assert [path.name for path in one.iterdir()] == ["other"]
    assert [path.name for path in other.iterdir()] == ["one"]
    assert not exchange(one, tmp_path / "none")
    assert (one / "other").exists()
