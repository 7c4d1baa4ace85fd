"""What a reader of some format hands over: the parts of a dataset before they are split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from ofatvm.data.dataset import ArrayImages
from ofatvm.data.folder import FolderImages

Kind = TypeVar("Kind", ArrayImages, FolderImages)


@dataclass(frozen=True, slots=True, eq=False)
class Parts(Generic[Kind]):
    """Images as they were found; `val` is None when it is still to be held out of `train`."""

    name: str
    path: Path
    train: Kind
    val: Kind | None
    test: Kind | None
    classes: tuple[str, ...]
    digest: str
    named: bool = True
    """Whether the set itself names its classes; labels are just numbered otherwise."""
    held_out: bool = False
    """Whether `val` was a part of `train`."""


def digest_of(parts: Iterable[np.ndarray | str]) -> str:
    """SHA-256 of arrays (with their shapes and types) and texts, in order."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            sha.update(f"text {len(part)} {part}\n".encode(errors="surrogateescape"))
        else:
            sha.update(f"array {part.dtype.str} {part.shape}\n".encode())
            sha.update(np.ascontiguousarray(part).data)
    return sha.hexdigest()
