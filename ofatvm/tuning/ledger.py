"""The ledger: what every tuning run of a target took, one checked line each.

`sessions.jsonl` lies beside the journal and is written under the journal's lock. A run writes a
line when it starts, one now and then, and one when it ends; the last line of a run counts, so that
kill -9 loses the accounting since the one before. The others are removed when a run starts or ends.
"""

from __future__ import annotations

import math
import platform
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Literal, get_args

from ofatvm.files import read_file, replace_file
from ofatvm.measurement import now
from ofatvm.tuning.energy import (
    WATTS_PER_CORE,
    EnergyMeter,
    cpu_seconds,
    estimate_method,
    this_machine,
)
from ofatvm.tuning.lines import append_lines, checked_body, checked_line

LEDGER_FILE = "sessions.jsonl"
CHECKPOINT_S = 10.0
PACKAGES = ("ofatvm", "apache-tvm", "apache-tvm-ffi", "xgboost")
Status = Literal["running", "finished", "interrupted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One tuning run: what was asked, on what machine, and what it took.

    `started_from` names the siblings whose records the run began with.
    `trials` are the new ones. `status` is running while it goes on, and stays so after kill -9.
    `watts_per_core` is None where the energy was measured.
    """

    session: str
    start: str
    target: str
    fingerprint: str
    threads: int
    space: str
    resolutions: tuple[int, ...]
    workloads: int
    trials_per_workload: int
    started_from: tuple[str, ...]
    machine: dict[str, str | int] = field(hash=False)
    versions: dict[str, str] = field(hash=False)
    trials: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    energy_j: float = 0.0
    energy_method: str = ""
    watts_per_core: float | None = None
    status: Status = "running"

    def to_line(self) -> str:
        """One line of the ledger, with its check sum."""
        return checked_line(asdict(self))


def parse_session(line: bytes) -> Session | None:
    """The session of a line, None if the line is damaged in any way."""
    body = checked_body(line)
    if body is None:
        return None
    try:
        known = {entry.name: body[entry.name] for entry in fields(Session)}
        known |= {name: tuple(known[name]) for name in ("resolutions", "started_from")}
        session = Session(**known)
        return session if _makes_sense(session) else None
    except (KeyError, TypeError):
        return None


def _makes_sense(session: Session) -> bool:
    watts = session.watts_per_core
    amounts = (session.wall_s, session.cpu_s, session.energy_j, 0.0 if watts is None else watts)
    counts = (session.trials, session.workloads, session.threads, session.trials_per_workload)
    texts: tuple[str, ...] = (session.session, session.start, session.target, session.fingerprint)
    texts += (session.space, session.energy_method, *session.started_from)
    return (
        all(type(amount) in (int, float) and 0 <= amount < math.inf for amount in amounts)
        and all(type(count) is int and count >= 0 for count in (*counts, *session.resolutions))
        and all(type(text) is str for text in texts)
        and isinstance(session.machine, dict)
        and isinstance(session.versions, dict)
        and session.status in get_args(Status)
    )


@dataclass(frozen=True, slots=True)
class Ledger:
    """The runs of one target in the order they started, and how many lines were damaged."""

    sessions: tuple[Session, ...] = ()
    damaged: int = 0

    @property
    def trials(self) -> int:
        """Trials of all runs."""
        return sum(session.trials for session in self.sessions)

    @property
    def wall_s(self) -> float:
        """Seconds of all runs."""
        return sum(session.wall_s for session in self.sessions)

    @property
    def cpu_s(self) -> float:
        """CPU-seconds of all runs."""
        return sum(session.cpu_s for session in self.sessions)

    @property
    def energy_methods(self) -> tuple[str, ...]:
        """How the energy of the runs was found."""
        return tuple(dict.fromkeys(session.energy_method for session in self.sessions))

    @property
    def energy_j(self) -> float:
        """Joules of all runs."""
        return sum(session.energy_j for session in self.sessions)

    def at(self, watts_per_core: float) -> Ledger:
        """The same runs with estimated energies reckoned with other watts."""
        return replace(
            self,
            sessions=tuple(
                session
                if session.watts_per_core is None
                else replace(
                    session,
                    energy_j=session.cpu_s * watts_per_core,
                    energy_method=estimate_method(watts_per_core),
                    watts_per_core=watts_per_core,
                )
                for session in self.sessions
            ),
        )


def read_ledger(folders: Path | Iterable[Path]) -> Ledger:
    """The runs in one or several folders of the same target, each counted once.

    What is absent is empty; damaged lines are skipped and counted.
    """
    found: dict[str, Session] = {}
    damaged = 0
    for folder in [folders] if isinstance(folders, Path) else folders:
        for line in _lines(folder):
            session = parse_session(line)
            if session is None:
                damaged += 1
            else:
                found[session.session] = session
    return Ledger(tuple(sorted(found.values(), key=lambda session: session.start)), damaged)


def _lines(folder: Path) -> list[bytes]:
    try:
        data = read_file(folder / LEDGER_FILE)
    except FileNotFoundError:
        return []
    return [line for line in data.split(b"\n") if line]


def _compact(folder: Path) -> None:
    """Keep the last line of every run, and damaged lines as they are."""
    lines = _lines(folder)
    kept: dict[str | int, bytes] = {}
    for number, line in enumerate(lines):
        session = parse_session(line)
        key = number if session is None else session.session
        kept[key] = line
    if len(kept) < len(lines):
        replace_file(folder / LEDGER_FILE, b"".join(line + b"\n" for line in kept.values()))


class Account:
    """Writes the lines of one run; use as a context manager, with the journal open."""

    def __init__(
        self,
        folder: Path,
        count_trials: Callable[[], int],
        *,
        target: str,
        fingerprint: str,
        threads: int,
        space: str,
        resolutions: Sequence[int],
        workloads: int,
        trials_per_workload: int,
        started_from: Sequence[str] = (),
        watts_per_core: float = WATTS_PER_CORE,
        versions: Mapping[str, str] | None = None,
    ) -> None:
        """`count_trials` gives all trials of the journal; those made from now on are the run's.

        `versions` are those of the compiler that was tuned; of this process's tools unless given.
        """
        self.folder = folder
        self._count = count_trials
        self._meter = EnergyMeter()
        self._watts = watts_per_core
        measured = self._meter.method
        self.session = Session(
            session=uuid.uuid4().hex[:16],
            start=now(),
            target=target,
            fingerprint=fingerprint,
            threads=threads,
            space=space,
            resolutions=tuple(resolutions),
            workloads=workloads,
            trials_per_workload=trials_per_workload,
            started_from=tuple(started_from),
            machine=this_machine(),
            versions=tool_versions() if versions is None else dict(versions),
            energy_method=measured or estimate_method(watts_per_core),
            watts_per_core=None if measured else watts_per_core,
        )

    def __enter__(self) -> Account:
        """Start the clocks and write the first line."""
        _compact(self.folder)
        self._before = self._count()
        self._wall = time.monotonic()
        self._cpu = cpu_seconds()
        self._write("running")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write the last line."""
        self._write("finished" if kind is None else "interrupted")
        _compact(self.folder)

    def checkpoint(self) -> None:
        """Write a line if the last one is older than CHECKPOINT_S."""
        if time.monotonic() - self._written >= CHECKPOINT_S:
            self._write("running")

    def _write(self, status: Status) -> None:
        cpu_s = max(self.session.cpu_s, round(cpu_seconds() - self._cpu, 2))
        measured_j = self._meter.read()
        self._written = time.monotonic()
        self.session = replace(
            self.session,
            status=status,
            trials=self._count() - self._before,
            wall_s=round(self._written - self._wall, 2),
            cpu_s=cpu_s,
            energy_j=round(cpu_s * self._watts if measured_j is None else measured_j, 1),
        )
        append_lines(self.folder / LEDGER_FILE, [self.session.to_line()])


def tool_versions() -> dict[str, str]:
    """Versions of what tunes."""
    packages = {name: metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version()} | packages
