"""A folder as another user sees it, or one on media that cannot be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def only_read(folder: Path) -> Iterator[None]:
    """In this block the folder and what lies in it can be read and not written, not even by root.

    Whoever is root needs a folder that others may enter.
    """
    everything = [folder, *folder.rglob("*")]
    me = os.geteuid()
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    if me == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(me)
        for path in everything:
            path.chmod(0o755 if path.is_dir() else 0o644)
