"""Files read or replaced whole or not at all, and folders for what is only needed for a while."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from glob import escape as glob_escape
from pathlib import Path

MOST_BYTES = 1 << 30
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
_TEMPORARY = re.compile(r"\.(.+)\.(\d+)")
# Machines, and containers, may share a folder, and each has processes of its own.
_MACHINE = re.sub(r"\W", "_", os.uname().nodename)[:40]
_SCRATCH = re.compile(rf"ofatvm-[a-z]+-(\d+)-{_MACHINE}-\w{{8}}", re.ASCII)


def read_file(path: Path, most: int = MOST_BYTES) -> bytes:
    """All of an ordinary file of at most `most` bytes; an OSError that names it for anything else.

    A pipe would be waited for and a device read for ever, and both may lie in a folder from others.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "it is no ordinary file")
            if found.st_size > most:
                raise OSError(errno.EFBIG, f"it is larger than {most >> 20} MiB")
            return file.read()
    except OSError as error:  # what reading raises does not say of which file
        raise OSError(error.errno, error.strerror, str(path)) from None


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file whole: temporary file, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def intended_name(name: str) -> str:
    """The name that a file will have, if this is the temporary one that `replace_file` gives it."""
    found = _TEMPORARY.fullmatch(name)
    return found[1] if found else name


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of processes that were killed while they replaced a file."""
    for path in folder.iterdir() if folder.is_dir() else ():
        found = _TEMPORARY.fullmatch(path.name)
        if found and not Path(f"/proc/{found[2]}").exists():
            path.unlink(missing_ok=True)


@contextmanager
def scratch(what: str, within: Path | None = None) -> Iterator[Path]:
    """A folder for a while, in the temporary folder or `within` another; `what` is a word.

    Its name holds process and machine, so that what a killed one left is found and deleted: by
    each process once, when it first makes a folder there.
    """
    place = Path(tempfile.gettempdir()) if within is None else within
    sweep_once(place)
    prefix = f"ofatvm-{what}-{os.getpid()}-{_MACHINE}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=place) as name:
        yield Path(name)


@cache
def sweep_once(place: Path) -> None:
    """Delete the scratch folders of processes that are gone."""
    names: list[str] = []
    with suppress(OSError):  # one may make folders where one may not look
        names = os.listdir(place)
    for name in names:
        found = _SCRATCH.fullmatch(name)
        if found and not Path(f"/proc/{found[1]}").exists():
            shutil.rmtree(place / name, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Let two files or folders change names in one step; False where the system cannot.

    See renameat2(2): file systems that lack it are few.
    """
    import ctypes  # few commands need it

    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except AttributeError:
        return False
    names = os.fsencode(one), os.fsencode(other)
    return bool(renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0)


def scratch_folder(path: Path) -> Path:
    """The name of a hidden folder beside `path` to make it in; older ones of it are deleted.

    Those are of processes that were killed while they made it.
    """
    for old in path.parent.glob(f".{glob_escape(path.name)}.*.partial"):
        process = old.name.removesuffix(".partial").rpartition(".")[2]
        if process.isdecimal() and not Path(f"/proc/{process}").exists():
            shutil.rmtree(old, ignore_errors=True)
    return path.parent / f".{path.name}.{os.getpid()}.partial"
