"""What it is worth to search for the very target: the pick for 1 thread run at 2, and the reverse.

For each number of threads a search runs under a budget of its own: the latency there of a network
of middling size. Then both picks are measured side by side at both, accuracy is measured on the
supernet's held-out images, and the paired difference of accuracy gets its 95 % interval.

It takes some minutes on a machine that does nothing else; what was interrupted continues.

    .venv/bin/python benchmarks/specialisation.py [--target host] [--supernet NAME]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from no_retraining import difference

from ofatvm.arch import Arch
from ofatvm.device.timing import FINAL
from ofatvm.files import replace_file
from ofatvm.graph import operator_graph, totals
from ofatvm.measurement import Measurement, now
from ofatvm.paths import data_dir
from ofatvm.pipeline.describe import accuracy_model
from ofatvm.pipeline.devices import open_device
from ofatvm.pipeline.measure import measure
from ofatvm.pipeline.search import search
from ofatvm.pipeline.search_state import SearchConfig
from ofatvm.pipeline.setup import Setup, prepare
from ofatvm.search.budget import Budget
from ofatvm.store import Store
from ofatvm.supernet.evaluate import Exam, evaluate
from ofatvm.supernet.folder import DEFAULT_SUPERNET, SupernetFolder, find_supernet
from ofatvm.tuning.energy import this_machine
from ofatvm.tuning.ledger import tool_versions

THREADS = (1, 2)


def middling(setup: Setup) -> Arch:
    space = setup.space
    return space.uniform(
        kernel=space.kernels[0],
        expand=space.expands[len(space.expands) // 2],
        depth=space.depths[len(space.depths) // 2],
    )


def on_threads(target: str, folder: SupernetFolder, threads: int, workspace: Path) -> Any:
    return prepare(
        target,
        space_name=folder.space.name,
        resolution=None,
        workspace=workspace,
        threads=threads,
        on_event=print,
    )


def pick_for(
    target: str, folder: SupernetFolder, threads: int, workspace: Path, seed: int
) -> tuple[Arch, float]:
    """The pick of a search on so many threads, and the budget it was found under."""
    with (
        on_threads(target, folder, threads, workspace) as setup,
        Store.open(workspace) as store,
        open_device(setup, store) as device,
    ):
        found = measure(setup, store, device, [middling(setup)], source="profile", protocol=FINAL)[
            0
        ]
        assert found.latency_ms is not None, found.error
        budget = round(found.latency_ms, 4)
        result = search(
            setup,
            store,
            device,
            accuracy_model(setup.space, folder),
            Budget(budget, None, None, None, None),
            SearchConfig(seed=seed),
            supernet=folder,
            on_event=print,
        )
    return result.pick.arch, budget


def side_by_side(
    target: str, folder: SupernetFolder, threads: int, workspace: Path, archs: list[Arch]
) -> list[Measurement]:
    with (
        on_threads(target, folder, threads, workspace) as setup,
        Store.open(workspace) as store,
        open_device(setup, store, fresh=True) as device,
    ):
        return measure(setup, store, device, archs, source="profile", protocol=FINAL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="host")
    parser.add_argument("--supernet", default=DEFAULT_SUPERNET)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workspace", type=Path, default=Path(".ofatvm/specialisation"))
    parser.add_argument("--out", type=Path, default=data_dir("results") / "specialisation.json")
    options = parser.parse_args()
    folder = find_supernet(options.supernet)
    picks: dict[int, tuple[Arch, float]] = {
        threads: pick_for(options.target, folder, threads, options.workspace, options.seed)
        for threads in THREADS
    }
    archs = [picks[threads][0] for threads in THREADS]
    exam = Exam(folder.calibration(), folder.evaluation(), folder.mean, folder.std)
    correct = evaluate(folder.weights, folder.space, exam, archs)
    gain, half = difference(correct[0], correct[1])
    matrix: list[dict[str, Any]] = []
    for threads in THREADS:
        measured = side_by_side(options.target, folder, threads, options.workspace, archs)
        for searched, arch, m, row in zip(THREADS, archs, measured, correct, strict=True):
            assert m.latency_ms is not None, m.error
            matrix.append(
                {
                    "searched_for_threads": searched,
                    "run_with_threads": threads,
                    "arch": arch.encode(),
                    "macs": totals(operator_graph(arch)).macs,
                    "latency_ms": m.latency_ms,
                    "ci_low_ms": m.ci_low_ms,
                    "ci_high_ms": m.ci_high_ms,
                    "unstable": m.unstable,
                    "budget_ms": picks[threads][1],
                    "meets_budget": m.latency_ms <= picks[threads][1],
                    "accuracy_percent": 100 * float(np.mean(row)),
                }
            )
    result = {
        "when": now(),
        "machine": this_machine(),
        "versions": tool_versions(),
        "supernet": folder.name,
        "evaluation_images": correct.shape[1],
        "accuracy_difference_points": gain,
        "accuracy_difference_half_width": half,
        "matrix": matrix,
    }
    replace_file(options.out, json.dumps(result, indent=1).encode() + b"\n")
    print("| searched for | run with | ms measured | 95 % interval | budget | top-1 | subnet |")
    print("|---|---|---|---|---|---|---|")
    for row in matrix:
        print(
            f"| {row['searched_for_threads']} threads | {row['run_with_threads']} | "
            f"{row['latency_ms']:.4f} | {row['ci_low_ms']:.4f} to {row['ci_high_ms']:.4f}"
            f"{' unstable' if row['unstable'] else ''} | {row['budget_ms']:.4f} "
            f"({'met' if row['meets_budget'] else 'missed'}) | {row['accuracy_percent']:.2f} % | "
            f"{row['arch']} |"
        )
    print(f"\nThe first pick is {gain:+.2f} +- {half:.2f} points better than the second.")


if __name__ == "__main__":
    main()
