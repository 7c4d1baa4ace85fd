"""Tuning that starts from a sibling, against a full tuning from nothing, on the same kernels.

Two transfers: `threads`, a family's records made with all cores, to one thread of the same target;
and `cpu`, x86-64-v3's records to this machine's very CPU. On a sample of the space's workloads
(drawn with their compute as weight), each target is tuned three times into journals of its own:
fully from nothing, from the sibling with few trials, and from nothing with as few. The winners,
the sibling's record as it is borrowed without any trial, and the default schedule are then timed
side by side, in turns, one set of processes for all. Speed is the full tuning's time over
another's, each the sum over the sampled workloads times their calls in a mean network of the space.

    .venv/bin/python benchmarks/siblings.py

Done again with the same --workspace it tunes only what is missing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ofatvm.compiler.isa import host_target, vector_unit
from ofatvm.compiler.kernels import kernel_sizes
from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.compiler.space import default_config, schedule_space
from ofatvm.errors import MissingInputError
from ofatvm.files import replace_file
from ofatvm.pipeline.setup import resolve_target
from ofatvm.spaces import OFA_SPACE, find_space
from ofatvm.target import Target
from ofatvm.tuning.journal import Journal
from ofatvm.tuning.records import write_owner
from ofatvm.tuning.siblings import Sibling, read_sibling, seeds
from ofatvm.tuning.tune import tune
from ofatvm.tuning.workers import Timing, Workers
from ofatvm.tuning.workloads import WorkloadUse, space_workloads

RESULTS = Path(__file__).resolve().parent / "results" / "siblings.json"
TUNED = ("full", "sibling", "scratch")
CONTESTANTS = (*TUNED, "borrowed", "default")
FINAL = Timing(repeats=3, sample_ms=10)


@dataclass(frozen=True)
class Transfer:
    """Whose records are lent to whom."""

    name: str
    sibling: Sibling
    target: Target


def transfers(names: Sequence[str], logs: Path, family: str) -> list[Transfer]:
    """The transfers asked for; `family` lends its records to one of its threads."""
    made = []
    if "threads" in names:
        host = host_target()
        known = [n for n in (family or host.name, *host.family) if (logs / n).is_dir()]
        if not known:
            raise MissingInputError(f"no records of {host.name} or its families in {logs}")
        one = resolve_target("host" if known[0] == host.name else known[0], threads=1)
        made.append(Transfer("threads", read_sibling(logs / known[0]), one))
    if "cpu" in names:
        made.append(Transfer("cpu", read_sibling(logs / "x86-64-v3"), host_target()))
    return made


def sample(
    uses: Sequence[WorkloadUse], sibling: Sibling, count: int, seed: int
) -> list[WorkloadUse]:
    """Workloads the sibling has, drawn by their compute; all of them if `count` is 0."""
    there = [use for use in uses if use.workload.key in sibling.costs]
    compute = [use for use in there if use.macs]
    if not count or count >= len(compute):
        return compute if count else there
    weights = np.array([use.macs for use in compute])
    drawn = np.random.default_rng(seed).choice(
        len(compute), size=count, replace=False, p=weights / weights.sum()
    )
    return [compute[i] for i in sorted(drawn)]


def tuned(transfer: Transfer, uses: Sequence[WorkloadUse], options: Any) -> dict[str, Journal]:
    """The journals of the three tunings, each brought to its number of trials."""
    target, unit = transfer.target, vector_unit(transfer.target)
    trials = {"full": options.trials, "sibling": options.few, "scratch": options.few}
    keys = {use.workload.key for use in uses}
    journals = {}
    for arm in TUNED:
        folder = options.workspace / transfer.name / arm
        with Journal.open(folder) as journal:
            write_owner(folder, target, unit, "measured")
            done = tune(
                uses,
                target,
                unit,
                journal,
                trials_per_workload=trials[arm],
                seed=options.seed,
                siblings=[transfer.sibling] if arm == "sibling" else [],
            )
        print(f"{transfer.name} {arm}: {done.new_trials} new trials in {done.seconds:.0f} s")
        journal.trials = {key: tries for key, tries in journal.trials.items() if key in keys}
        journals[arm] = journal
    return journals


def timed(
    workers: Workers, use: WorkloadUse, configs: Mapping[str, ScheduleConfig], repeats: int
) -> dict[str, float]:
    """Median seconds a call of each contestant; contestants with one schedule share its time.

    Every repeat times each schedule once, every other repeat in the opposite order.
    """
    distinct = list(dict.fromkeys(configs.values()))
    built = workers.build([(use.workload, config) for config in distinct])
    paths = {config: path for config, (path, _) in zip(distinct, built, strict=True)}
    samples: dict[ScheduleConfig, list[float]] = {config: [] for config in distinct}
    for repeat in range(repeats):
        for config in distinct if repeat % 2 == 0 else reversed(distinct):
            path = paths[config]
            if path is None:
                continue
            copy = path.with_suffix(f".{repeat}.so")
            copy.hardlink_to(path)  # a run removes what it ran
            samples[config] += workers.run(copy, kernel_sizes(use.workload, config), FINAL)[0]
    medians = {c: statistics.median(found) if found else math.inf for c, found in samples.items()}
    return {name: medians[config] for name, config in configs.items()}


def compare(transfer: Transfer, options: Any) -> dict[str, Any]:
    """Tune three times, time the winners side by side, and sum up."""
    target, unit = transfer.target, vector_unit(transfer.target)
    every = space_workloads(find_space(OFA_SPACE), options.resolution)
    count = 0 if options.all else options.workloads
    uses = sample(every, transfer.sibling, count, options.seed)
    journals = tuned(transfer, uses, options)
    rows = []
    with Workers(target, unit, builders=len(os.sched_getaffinity(0))) as workers:
        for use in uses:
            key = use.workload.key
            configs = {}
            for arm, journal in journals.items():
                best = journal.best(key)
                configs[arm] = best.config if best else default_config(use.workload, unit)
            space = {config: i for i, config in enumerate(schedule_space(use.workload, unit))}
            borrowed = seeds([transfer.sibling], use.workload, space, unit, 1)
            configs["borrowed"] = borrowed[0] if borrowed else default_config(use.workload, unit)
            configs["default"] = default_config(use.workload, unit)
            seconds = timed(workers, use, configs, options.repeats)
            rows.append({"workload": key, "calls": use.calls, "seconds": seconds})
            shown = " ".join(f"{n} {s * 1e6:.1f}" for n, s in seconds.items())
            print(f"{transfer.name} {key}: {shown} us", flush=True)
    return summary(transfer, rows, journals)


def summary(
    transfer: Transfer, rows: Sequence[Mapping[str, Any]], journals: Mapping[str, Journal]
) -> dict[str, Any]:
    """One transfer's result."""
    ratios = {
        name: [row["seconds"]["full"] / row["seconds"][name] for row in rows]
        for name in CONTESTANTS
    }
    total = {n: sum(row["calls"] * row["seconds"][n] for row in rows) for n in CONTESTANTS}
    trials = {arm: sum(map(len, journal.trials.values())) for arm, journal in journals.items()}
    closing = {
        arm: sum(len(journal.finals[key]) for key in journal.trials)
        for arm, journal in journals.items()
    }
    return {
        "transfer": transfer.name,
        "from": transfer.sibling.name,
        "from_unit": [transfer.sibling.unit.lanes, transfer.sibling.unit.threads],
        "to": transfer.target.name,
        "to_threads": transfer.target.threads,
        "sibling_records": transfer.sibling.records,
        "sibling_trials": transfer.sibling.trials,
        "workloads": len(rows),
        "trials": trials,
        "closing_measurements": closing,
        "trial_share": round(trials["sibling"] / trials["full"], 4),
        "speed": {name: round(total["full"] / total[name], 4) for name in CONTESTANTS},
        "geometric_mean": {
            name: round(math.exp(statistics.fmean(map(math.log, found))), 4) if all(found) else 0.0
            for name, found in ratios.items()
        },
        "worst": {name: round(min(found), 4) for name, found in ratios.items()},
        "rows": [
            {
                "workload": row["workload"],
                "calls": round(row["calls"], 4),
                # JSON has no infinity: null is a schedule that does not run here.
                "us": {
                    name: round(seconds * 1e6, 2) if math.isfinite(seconds) else None
                    for name, seconds in row["seconds"].items()
                },
            }
            for row in rows
        ],
    }


def main() -> None:
    """Do the transfers, print and write what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--transfer", action="append", choices=("threads", "cpu"))
    parser.add_argument(
        "--family", default="", help="who lends to one thread (nearest with records)"
    )
    parser.add_argument("--tuning-logs", type=Path, default=Path("tuning_logs"))
    parser.add_argument(
        "--workspace", type=Path, help="keep the journals here (a temporary folder)"
    )
    parser.add_argument("--workloads", type=int, default=24)
    parser.add_argument("--all", action="store_true", help="every workload of the space")
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--trials", type=int, default=64, help="of a full tuning, per workload")
    parser.add_argument("--few", type=int, default=8, help="of a short tuning, per workload")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        options.workspace = options.workspace or Path(temporary)
        chosen = transfers(
            options.transfer or ("threads", "cpu"), options.tuning_logs, options.family
        )
        found = [compare(transfer, options) for transfer in chosen]
    for result in found:
        print(json.dumps({key: value for key, value in result.items() if key != "rows"}, indent=1))
    value = {
        "schema": 1,
        "resolution": options.resolution,
        "trials_per_workload": {"full": options.trials, "sibling": options.few},
        "repeats": options.repeats,
        "seed": options.seed,
        "cpu": host_target().name,
        "cores": len(os.sched_getaffinity(0)),
        "versions": {n: metadata.version(n) for n in ("ofatvm", "apache-tvm", "xgboost")},
        "transfers": found,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(options.out, (json.dumps(value, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
