"""What stages tell the outside world while they work; the command line alone prints it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage begins; `total` is the number of steps when it is known."""

    stage: str
    total: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` steps are behind; `detail` is the best so far, or what is being worked on."""

    stage: str
    done: int
    total: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class StageFinished:
    """A stage ended well."""

    stage: str
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should read, whatever stage it comes from."""

    level: Literal["info", "warning"]
    text: str


Event = StageStarted | Progress | StageFinished | Notice


def ignore(event: Event) -> None:
    """Drop the event: the default listener of every stage."""
