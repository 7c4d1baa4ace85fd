"""What tuning a space cost, and what the next subnet and the next target cost beside it.

The ledger says what was spent on a target's records. What a network tuned alone, a subnet compiled
from the records and a sibling target cost was measured by benchmarks, whose results ship along.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from ofatvm.errors import MissingInputError
from ofatvm.files import read_file
from ofatvm.spaces import find_space
from ofatvm.target import Target
from ofatvm.text import counted
from ofatvm.tuning.journal import Journal
from ofatvm.tuning.ledger import Ledger, Session, read_ledger
from ofatvm.tuning.records import find_records
from ofatvm.tuning.workloads import coverage, space_workloads

ALONE_FILE, SIBLINGS_FILE = "tuning_cost.json", "siblings.json"
ALONE_SCRIPT, SIBLINGS_SCRIPT = "benchmarks/tuning_cost.py", "benchmarks/siblings.py"


@dataclass(frozen=True, slots=True)
class Cost:
    """One row: what was done and what it took; ratios are to the report's baseline.

    A value that nobody measured is None.
    """

    what: str
    trials: int
    wall_s: float | None = None
    cpu_s: float | None = None
    energy_j: float | None = None
    trials_ratio: float | None = None
    cpu_ratio: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CostReport:
    """The cost of a target's records. `records_of` is the target or the family that was tuned.

    `baseline_coverage` is the share of the baseline's compute that has trials (0 to 1).
    `break_even_networks` is the number of networks from which on tuning the space took less CPU
    time than tuning each of them alone; None where that was not measured with equal effort.
    `notes` say what is missing and how to make it, `unaccounted_trials` are in the journal but in
    no run of the ledger.
    """

    target: str
    records_of: str
    threads: int
    baseline: str
    baseline_coverage: float
    rows: tuple[Cost, ...]
    break_even_networks: int | None
    break_even_by_trials: int | None
    seconds_per_trial: float
    runs: int
    killed_runs: int
    energy_methods: tuple[str, ...]
    machines: tuple[str, ...]
    damaged_lines: int
    unaccounted_trials: int
    notes: tuple[str, ...]


def cost_report(
    target: Target,
    tuning_logs: Sequence[Path],
    results: Path,
    *,
    watts_per_core: float | None = None,
) -> CostReport:
    """Account for the nearest records that serve a target and have a ledger.

    `results` is the folder of benchmark results; `watts_per_core` replaces what energies were
    estimated with. MissingInputError if no run is in any ledger.
    """
    found = _find_ledger(target, tuning_logs)
    if watts_per_core is not None:
        found = found.at(watts_per_core)
    ledger, notes = found.ledger, found.notes
    groups = _groups(ledger.sessions)
    (space, resolutions), runs = _baseline(groups)
    tuned = _tuned_share(space, resolutions, found.trials)
    whole = "once" if tuned == 1 else "in part"
    base = _spent(f"space at {_listed(resolutions)}, tuned {whole}", Ledger(runs))
    rows = [base]
    rows += [
        _spent(_other(space, key), Ledger(group))
        for key, group in groups.items()
        if key != (space, resolutions)
    ]
    rows += [_spent(f"then for {name}", spent) for name, spent in found.refined.items()]
    alone = _alone(results, runs, notes)
    rows += alone
    even = by_trials = None
    if alone:
        mean = _mean(alone)
        rows.append(mean)
        if tuned == 1:
            even, by_trials = _break_even(base, mean)
        rows += _compiled(results)
    rows += _siblings(results, notes)
    return CostReport(
        target=target.name,
        records_of=found.name,
        threads=runs[0].threads,
        baseline=base.what,
        baseline_coverage=tuned,
        rows=tuple(_with_ratios(row, base) for row in rows),
        break_even_networks=even,
        break_even_by_trials=by_trials,
        seconds_per_trial=round(ledger.wall_s / ledger.trials, 3),
        runs=len(ledger.sessions),
        killed_runs=sum(session.status == "running" for session in ledger.sessions),
        energy_methods=ledger.energy_methods,
        machines=tuple(dict.fromkeys(_machine(session) for session in ledger.sessions)),
        damaged_lines=ledger.damaged,
        unaccounted_trials=max(0, sum(found.trials.values()) - ledger.trials),
        notes=tuple(notes),
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """A ledger, the journal's trials by workload, and nearer ledgers of refinements of it."""

    name: str
    ledger: Ledger
    trials: dict[str, int]
    refined: dict[str, Ledger]
    notes: list[str]

    def at(self, watts_per_core: float) -> _Found:
        refined = {name: ledger.at(watts_per_core) for name, ledger in self.refined.items()}
        return replace(self, ledger=self.ledger.at(watts_per_core), refined=refined)


def _find_ledger(target: Target, roots: Sequence[Path]) -> _Found:
    """The nearest of the target's record names that was tuned from nothing.

    The nearer ones that started from a sibling's records are its refinements; where all did, the
    nearest is taken.
    """
    foreign = set(find_records(target, roots).foreign)
    ledgers: dict[str, Ledger] = {}
    trials: dict[str, dict[str, int]] = {}
    notes: list[str] = []
    damaged = 0
    for name in target.record_names:
        every = dict.fromkeys(root.resolve() / name for root in roots)
        folders = [folder for folder in every if folder not in foreign]
        ledger = read_ledger(folders)
        damaged += ledger.damaged
        trials[name] = _journal_trials(folders)
        if not ledger.trials:
            if trials[name]:
                count = sum(trials[name].values())
                notes.append(f"records of {name}: {counted(count, 'trial')} in no ledger")
            continue
        ledgers[name] = ledger
        if not ledger.sessions[0].started_from:
            break
    if not ledgers:
        skipped = f" ({counted(damaged, 'damaged line')})" if damaged else ""
        raise MissingInputError(
            f"no tuning run of {' or '.join(target.record_names)} is in a ledger{skipped}",
            hint="`ofatvm tune` with the same --target writes one",
        )
    names = list(ledgers)
    own = names[0] if ledgers[names[-1]].sessions[0].started_from else names[-1]
    refined = {name: ledgers[name] for name in names[: names.index(own)]}
    return _Found(own, ledgers[own], trials[own], refined, notes)


def _journal_trials(folders: Sequence[Path]) -> dict[str, int]:
    """Workload key -> trials in the folder that has most of them."""
    counts: dict[str, int] = {}
    for folder in folders:
        for key, trials in Journal.read(folder).trials.items():
            counts[key] = max(counts.get(key, 0), len(trials))
    return counts


def _tuned_share(space: str, resolutions: Sequence[int], trials: dict[str, int]) -> float:
    """The lowest share of the space's compute, at any of the resolutions, that has trials."""
    whole = find_space(space)
    shares = (coverage(space_workloads(whole, resolution), trials) for resolution in resolutions)
    return min(shares, default=0.0)


_Key = tuple[str, tuple[int, ...]]


def _groups(sessions: Iterable[Session]) -> dict[_Key, tuple[Session, ...]]:
    """Runs by space and resolutions, in the order the first of each started."""
    groups: dict[_Key, tuple[Session, ...]] = {}
    for session in sessions:
        key = session.space, tuple(sorted(session.resolutions))
        groups[key] = (*groups.get(key, ()), session)
    return {key: runs for key, runs in groups.items() if Ledger(runs).trials}


def _baseline(groups: dict[_Key, tuple[Session, ...]]) -> tuple[_Key, tuple[Session, ...]]:
    """The first group with the largest resolution of all."""
    largest = max(max(resolutions, default=0) for _, resolutions in groups)
    return next(item for item in groups.items() if largest in item[0][1] or not largest)


def _spent(what: str, ledger: Ledger) -> Cost:
    return Cost(
        what,
        ledger.trials,
        round(ledger.wall_s, 1),
        round(ledger.cpu_s, 1),
        round(ledger.energy_j, 1),
        detail=counted(len(ledger.sessions), "run"),
    )


def _other(space: str, key: _Key) -> str:
    return f"{'space' if key[0] == space else key[0]} at {_listed(key[1])}, beside"


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _machine(session: Session) -> str:
    return f"{session.machine.get('cpu', '?')}, {session.machine.get('cores', '?')} cores"


def _alone(results: Path, runs: Sequence[Session], notes: list[str]) -> list[Cost]:
    """The networks that were tuned alone, if with the same effort on the same target."""
    content = _read(results / ALONE_FILE, ALONE_SCRIPT)
    if content is None:
        notes.append(
            f"networks tuned alone, and subnets compiled from the records: {ALONE_SCRIPT} "
            "measures them"
        )
        return []
    effort = max(session.trials_per_workload for session in runs)
    with _checked(results / ALONE_FILE, ALONE_SCRIPT):
        for what, theirs, ours in (
            ("for", content["fingerprint"], runs[0].fingerprint),
            ("with threads:", content["threads"], runs[0].threads),
            ("with trials per workload:", content["trials_per_workload"], effort),
        ):
            if theirs != ours:
                notes.append(
                    f"networks tuned alone: those of {ALONE_FILE} were tuned {what} {theirs}, the "
                    f"space {ours}; {ALONE_SCRIPT} makes them anew"
                )
                return []
        return [
            Cost(
                f"network {number} alone, {round(entry['macs'] / 1e6)} M MACs",
                int(entry["trials"]),
                float(entry["wall_s"]),
                float(entry["cpu_s"]),
                float(entry["energy_j"]),
                detail=str(entry["arch"]),
            )
            for number, entry in enumerate(content["alone"], 1)
        ]


def _mean(rows: Sequence[Cost]) -> Cost:
    def mean(values: Iterable[float | None]) -> float:
        return round(sum(value or 0.0 for value in values) / len(rows), 1)

    return Cost(
        f"mean of {counted(len(rows), 'network')} alone",
        round(mean(row.trials for row in rows)),
        mean(row.wall_s for row in rows),
        mean(row.cpu_s for row in rows),
        mean(row.energy_j for row in rows),
    )


def _break_even(space: Cost, mean: Cost) -> tuple[int | None, int | None]:
    """The number of networks from which on the space is cheaper, by CPU time and by trials."""
    by_cpu = math.floor((space.cpu_s or 0.0) / mean.cpu_s) + 1 if mean.cpu_s else None
    by_trials = math.floor(space.trials / mean.trials) + 1 if mean.trials else None
    return by_cpu, by_trials


def _compiled(results: Path) -> list[Cost]:
    """The first and the last of the subnets compiled from the records."""
    content = _read(results / ALONE_FILE, ALONE_SCRIPT)
    assert content is not None
    with _checked(results / ALONE_FILE, ALONE_SCRIPT):
        subnets = content["compiled"]
        chosen = [("first", subnets[0]), ("next", subnets[-1])][: len(subnets)]
        return [
            Cost(
                f"{which} subnet from the records",
                int(entry["trials"]),
                float(entry["wall_s"]),
                float(entry["cpu_s"]),
                detail=f"{counted(int(entry['new_kernels']), 'kernel')} compiled, "
                f"coverage {entry['coverage']:.0%}",
            )
            for which, entry in chosen
        ]


def _siblings(results: Path, notes: list[str]) -> list[Cost]:
    """Targets that were tuned from a sibling's records, with their share of a full tuning."""
    content = _read(results / SIBLINGS_FILE, SIBLINGS_SCRIPT)
    if content is None:
        notes.append(f"the next target, from a sibling's records: {SIBLINGS_SCRIPT} measures it")
        return []
    with _checked(results / SIBLINGS_FILE, SIBLINGS_SCRIPT):
        return [
            Cost(
                f"next target ({number})",
                int(entry["trials"]["sibling"]),
                trials_ratio=entry["trials"]["sibling"] / entry["trials"]["full"],
                detail=f"{entry['to']} with {counted(int(entry['to_threads']), 'thread')} from "
                f"{entry['from']}, on {counted(int(entry['workloads']), 'workload')}; its ratio is "
                f"to their full tuning of {entry['trials']['full']:,} trials, whose speed "
                f"it reached to {entry['speed']['sibling']:.1%}",
            )
            for number, entry in enumerate(content["transfers"], 1)
        ]


def _with_ratios(row: Cost, base: Cost) -> Cost:
    trials = row.trials / base.trials if row.trials_ratio is None else row.trials_ratio
    cpu = row.cpu_s / base.cpu_s if row.cpu_s is not None and base.cpu_s else None
    return replace(row, trials_ratio=_rounded(trials), cpu_ratio=cpu and _rounded(cpu))


def _rounded(ratio: float) -> float:
    return float(f"{ratio:.3g}")


def _read(path: Path, script: str) -> dict[str, Any] | None:
    """A benchmark's result; None where there is none."""
    try:
        data = read_file(path)
    except FileNotFoundError:
        return None
    with _checked(path, script):
        return dict(json.loads(data, parse_constant=_refuse, parse_float=_figure))


def _figure(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no figure")


@contextmanager
def _checked(path: Path, script: str) -> Iterator[None]:
    """Make whatever is wrong with a result's content a MissingInputError."""
    try:
        yield
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
        raise MissingInputError(
            f"{path} is damaged or of another version", hint=f"run {script} again"
        ) from None
