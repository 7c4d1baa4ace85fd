"""Where the files are that ship with ofatvm: target descriptions, tuning records, small models...

`results` are what benchmarks gave, which `ofatvm report` shows.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

PACKAGE = Path(__file__).resolve().parent


def checkout() -> Path | None:
    """The root of the source checkout this package runs from; None in an installed wheel."""
    root = PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() else None


def data_dir(kind: Literal["targets", "tuning_logs", "models", "supernets", "results"]) -> Path:
    """Folder of the shipped files of one kind; it may not exist when none are shipped."""
    if kind in ("models", "supernets"):
        return PACKAGE / kind
    root = checkout()
    if root is None:
        return PACKAGE / "_data" / kind
    return root / "benchmarks" / "results" if kind == "results" else root / kind


def cache_dir() -> Path:
    """Where fetched and rebuilt things are kept that any workspace may use; it may not exist.

    OFATVM_CACHE, or else ofatvm in XDG_CACHE_HOME, or else ~/.cache/ofatvm.
    """
    own = os.environ.get("OFATVM_CACHE")
    if own:
        return Path(own).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The standard says to ignore what is not absolute.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "ofatvm"
