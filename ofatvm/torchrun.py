"""What torchrun tells a process about itself and its fellows."""

from __future__ import annotations

import os
from pathlib import Path

from ofatvm.signals import end_with_parent


def together() -> bool:
    """Whether this is one of several processes."""
    return _said("WORLD_SIZE", "1") != "1"


def follows() -> bool:
    """Whether this is one of several processes, and not the first."""
    return together() and _said("RANK", "0") != "0"


def first_of_machine() -> bool:
    """Whether this is the first process on its machine, or alone."""
    return not together() or _said("LOCAL_RANK", _said("RANK", "0")) == "0"


def end_with_torchrun() -> None:
    """Let this process be killed when the torchrun that started it is: it would wait for others.

    Where that has happened already, init has taken its place as the parent, and this ends at once.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        parent = os.getppid()
        end_with_parent(parent)
        # In a container torchrun may be the first process itself.
        if parent == 1 and b"torch" not in Path("/proc/1/cmdline").read_bytes():
            os._exit(1)


def _said(name: str, otherwise: str) -> str:
    """A variable's value; an empty one, as scripts leave it, says nothing."""
    return os.environ.get(name) or otherwise
