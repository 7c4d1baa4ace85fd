"""Files that are replaced whole or not at all."""

from __future__ import annotations

import os
import re
from pathlib import Path

_TEMPORARY = re.compile(r"\.(.+)\.(\d+)")


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
