"""Error of the latency model on subnets that it never saw, beside the baselines.

Measures two seeded, uniformly drawn samples on this machine (kept in the workspace, so that a
second run measures nothing), fits on the first and tests on the second.

    .venv/bin/python benchmarks/latency_model.py [--ir relay]
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import metadata
from pathlib import Path

import numpy as np

from ofatvm.device.timing import Protocol
from ofatvm.events import Event, Progress
from ofatvm.pipeline.devices import open_device
from ofatvm.pipeline.measure import (
    compile_space,
    kernel_times,
    latencies_ms,
    measure,
)
from ofatvm.pipeline.relay import road_versions
from ofatvm.pipeline.setup import prepare
from ofatvm.predict.baselines import baselines
from ofatvm.predict.latency import LatencyModel
from ofatvm.predict.report import ErrorReport, error_report
from ofatvm.road import IRS
from ofatvm.spaces import OFA_SPACE
from ofatvm.store import Store

PROTOCOL = Protocol(processes=1, rounds=15, block_ms=60.0, warmup_ms=10.0, half_width=0.004)


def say(event: Event) -> None:
    """One line of progress now and then."""
    if isinstance(event, Progress):
        print(f"{event.stage} {event.done}/{event.total} {event.detail}", file=sys.stderr)


def line(name: str, report: ErrorReport) -> str:
    """A row of the table."""
    covered = "" if report.coverage is None else f"{report.coverage:.0%}"
    return (
        f"{name:<22}{report.mape_percent:>7.2f}{report.spearman or 0:>10.4f}"
        f"{report.within_5_percent:>10.0f}{report.within_10_percent:>10.0f}{covered:>10}"
    )


def main() -> None:
    """Measure, fit, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="host")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--train", type=int, default=100)
    parser.add_argument("--test", type=int, default=50)
    parser.add_argument("--passes", type=int, default=2, help="times each subnet is measured")
    parser.add_argument("--workspace", type=Path, default=Path(".ofatvm/benchmark"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ir", choices=IRS, default="relax", help="road, and so the compiler")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with (
        prepare(
            options.target,
            space_name=OFA_SPACE,
            resolution=224,
            workspace=options.workspace,
            threads=options.threads,
            ir=options.ir,
        ) as setup,
        Store.open(options.workspace) as store,
        open_device(setup, store) as device,
    ):
        kernel_ms = kernel_times(setup, store, device, compile_space(setup), on_event=say)
        rng = np.random.default_rng(options.seed)
        archs = setup.space.from_rows(setup.space.sample_rows(rng, options.train + options.test))
        found, passes = [], []
        for number in range(options.passes):
            # Each pass in another order, so that no subnet always shares its minutes with another.
            order = np.random.default_rng(number).permutation(len(archs))
            measured = measure(
                setup,
                store,
                device,
                [archs[i] for i in order],
                source=f"benchmark-{number}",
                protocol=PROTOCOL,
                on_event=say,
            )
            found += measured
            passes.append(latencies_ms(measured)[np.argsort(order)])
        rows, latency = setup.space.to_rows(archs), np.exp(np.log(passes).mean(axis=0))
        known = kernel_ms(rows)
        train, test = slice(0, options.train), slice(options.train, None)
        model = LatencyModel.fit(
            rows[train],
            latency[train],
            known[train],
            setup.space,
            setup.tables,
            kernel_ms=kernel_ms,
        )
        p = model.predict(rows[test], known[test])
        reports = {
            "ofatvm": error_report(p.latency_ms, latency[test], p.low_ms, p.high_ms),
            **{
                name: error_report(predicted, latency[test])
                for name, predicted in baselines(
                    rows[train], latency[train], known[train], rows[test], known[test], setup.tables
                ).items()
            },
        }
        spread = [(m.ci_high_ms - m.ci_low_ms) / 2 / m.latency_ms for m in found if m.latency_ms]
        target, threads = setup.target, setup.target.threads
    facts = {
        "target": target.name,
        "threads": threads,
        "ir": options.ir,
        "train": options.train,
        "test": options.test,
        "latency_ms": [float(np.min(latency)), float(np.median(latency)), float(np.max(latency))],
        "measured_half_width_percent": 100 * float(np.median(spread)),
        "passes_differ_percent": 100 * float(np.median(np.ptp(np.log(passes), axis=0))),
        "unstable": sum(m.unstable for m in found),
        "kernel_sum_share": float(np.median(known / latency)),
        "versions": road_versions(options.ir)
        | {n: metadata.version(n) for n in ("xgboost", "numpy")},
    }
    if options.json:
        print(json.dumps({**facts, "reports": {k: r.to_dict() for k, r in reports.items()}}))
        return
    print(json.dumps(facts))
    print(f"{'':<22}{'MAPE %':>7}{'Spearman':>10}{'in 5 %':>10}{'in 10 %':>10}{'90 % int.':>10}")
    print("\n".join(line(name, report) for name, report in reports.items()))


if __name__ == "__main__":
    main()
