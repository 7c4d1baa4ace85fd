"""What torchrun tells a process about itself and its fellows."""

from __future__ import annotations

import os

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
    """Let this process be killed when the torchrun that started it is: it would wait for others."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(os.getppid())


def _said(name: str, otherwise: str) -> str:
    """A variable's value; an empty one, as scripts leave it, says nothing."""
    return os.environ.get(name) or otherwise
