"""What torchrun tells a process about itself and its fellows."""

from __future__ import annotations

import os


def together() -> bool:
    """Whether this is one of several processes."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def follows() -> bool:
    """Whether this is one of several processes, and not the first."""
    return together() and os.environ.get("RANK", "0") != "0"


def first_of_machine() -> bool:
    """Whether this is the first process on its machine, or alone."""
    return not together() or os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")) == "0"
