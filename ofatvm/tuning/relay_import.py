"""Taking over somebody's AutoTVM log: read and judged whole before anything is written."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from ofatvm.errors import MissingInputError, RecordError
from ofatvm.target import Target
from ofatvm.tuning.lines import append_lines
from ofatvm.tuning.relay_records import is_for, log_lines, named_target, parse_line

WANTED = "--import-log takes the text that AutoTVM's tuners write, one JSON object a line"
HEAD = 1 << 16
OTHERS = (
    (rb"\x1f\x8b", "compressed by gzip"),
    (rb"\xfd7zXZ", "compressed by xz"),
    (rb"BZh\d", "compressed by bzip2"),
    (rb"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (rb"PK\x03\x04", "a zip archive"),
    (rb"\s*\[\s*\d+\s*,\s*\[", "a file of MetaSchedule's tuning records"),
    (rb"\s*\[\s*\"-?\d+\"\s*,\s*\"", "a file of MetaSchedule's workloads"),
    (rb"\s*\{\s*\"i\"\s*:\s*\[", "a log of TVM's auto_scheduler"),
    (rb"\s*\{\s*\"workload\"\s*:", "a journal of ofatvm's Relax road"),
    (rb"\s*\Z", "empty"),
    (rb"[^\0]*\0", "a binary file"),
)
"""How files begin that are given by mistake, and what they are."""


@dataclass(frozen=True, slots=True)
class Theirs:
    """The trials of a log that are for a target, each once, and how many lines are not.

    `others` are trials of another target, `left` the lines of other tasks, or of none.
    """

    lines: tuple[bytes, ...]
    left: int
    others: int


def read_theirs(source: Path, target: Target) -> Theirs:
    """Somebody's trials of tasks that ofatvm has, made for the CPU of `target`.

    RecordError if not one of the lines is AutoTVM's, or none is for the target.
    """
    if source.is_dir():
        raise RecordError(f"{source} is a folder, not a log", hint=WANTED)
    if not source.is_file():
        raise MissingInputError(f"no AutoTVM log {source}", hint="check --import-log")
    found: dict[str, bytes] = {}
    left, others, records = 0, 0, 0
    for line in log_lines(source):
        trials = parse_line(line)
        records += trials is not None
        if not trials:
            left += 1
        elif not is_for(named_target(line), target):
            others += 1
        else:
            found.setdefault(identity(line), line)
    if not records:
        raise RecordError(
            f"{source} holds no record of AutoTVM: it is {_what(source)}", hint=WANTED
        )
    if not found:
        raise RecordError(
            f"{source} holds no trial for {target.name}: {others} are of other targets, and {left} "
            "lines of other tasks or of none",
            hint="give the --target that it was tuned for",
        )
    return Theirs(tuple(found.values()), left, others)


def import_log(theirs: Theirs, log: Path) -> int:
    """Append the trials that `log` does not hold already; how many these are."""
    held = set()
    for line in log_lines(log) if log.is_file() else ():
        if parse_line(line):
            held.add(identity(line))
    taken = [line.decode() + "\n" for line in theirs.lines if identity(line) not in held]
    append_lines(log, taken)
    return len(taken)


def identity(line: bytes) -> str:
    """What makes a line's trial the same as another line's, however both are written."""
    value = json.loads(line)
    return json.dumps([value["input"][:3], value["config"]["entity"], value["result"]])


def _what(source: Path) -> str:
    try:
        with source.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise RecordError(f"cannot read {source}: {error.strerror}") from None
    for start, what in OTHERS:
        if re.match(start, head):
            return what
    return "other text"
