"""What it is worth to search for the very target: picks for this CPU and for others, on each other.

For each target a search runs under a budget of its own, the latency there of the same network of
middling size. Then every pick is timed on every target, accuracy is measured on the supernet's
held-out images, and each is compared with the target's own pick. Latencies of this machine are
measured, those of other CPUs are simulated.

It takes some minutes on a machine that does nothing else; what was interrupted continues.

    .venv/bin/python benchmarks/cross_targets.py [--target "llvm -mcpu=cortex-a72" ...]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from no_retraining import difference
from specialisation import pick_for, side_by_side

from ofatvm.files import replace_file
from ofatvm.graph import operator_graph, totals
from ofatvm.measurement import now
from ofatvm.paths import data_dir
from ofatvm.pipeline.setup import resolve_target
from ofatvm.supernet.evaluate import Exam, evaluate
from ofatvm.supernet.folder import DEFAULT_SUPERNET, find_supernet
from ofatvm.tuning.energy import this_machine
from ofatvm.tuning.ledger import tool_versions

TARGETS = ("host", "llvm -mcpu=cortex-a72")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", action="append", help="May be given several times.")
    parser.add_argument("--supernet", default=DEFAULT_SUPERNET)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workspace", type=Path, default=Path(".ofatvm/cross_targets"))
    parser.add_argument("--out", type=Path, default=data_dir("results") / "cross_targets.json")
    options = parser.parse_args()
    folder = find_supernet(options.supernet)
    targets = {text: resolve_target(text) for text in options.target or TARGETS}
    picks = {
        text: pick_for(text, folder, target.threads, options.workspace, options.seed)
        for text, target in targets.items()
    }
    archs = list(dict.fromkeys(arch for arch, _ in picks.values()))
    exam = Exam(folder.calibration(), folder.evaluation(), folder.mean, folder.std)
    correct = dict(zip(archs, evaluate(folder.weights, folder.space, exam, archs), strict=True))
    matrix: list[dict[str, Any]] = []
    for text, target in targets.items():
        found = side_by_side(text, folder, target.threads, options.workspace, archs)
        latency = dict(zip(archs, found, strict=True))
        own, budget = picks[text]
        for searched, (arch, _) in picks.items():
            m = latency[arch]
            assert m.latency_ms is not None, m.error
            gain, half = difference(correct[arch], correct[own])
            matrix.append(
                {
                    "searched_for": targets[searched].name,
                    "run_on": target.name,
                    "threads": target.threads,
                    "arch": arch.encode(),
                    "macs": totals(operator_graph(arch)).macs,
                    "latency_ms": m.latency_ms,
                    "kind": m.kind,
                    "ci_low_ms": m.ci_low_ms,
                    "ci_high_ms": m.ci_high_ms,
                    "budget_ms": budget,
                    "meets_budget": m.latency_ms <= budget,
                    "accuracy_percent": 100 * float(np.mean(correct[arch])),
                    "points_over_own_pick": gain,
                    "points_half_width": half,
                }
            )
    result = {
        "when": now(),
        "machine": this_machine(),
        "versions": tool_versions(),
        "supernet": folder.name,
        "evaluation_images": len(next(iter(correct.values()))),
        "matrix": matrix,
    }
    replace_file(options.out, json.dumps(result, indent=1).encode() + b"\n")
    print("| searched for | run on | ms | budget | top-1 | against the own pick | subnet |")
    print("|---|---|---|---|---|---|---|")
    for row in matrix:
        print(
            f"| {row['searched_for']} | {row['run_on']}, {row['threads']} threads | "
            f"{row['latency_ms']:.4g} {row['kind']} | {row['budget_ms']:.4g} "
            f"({'met' if row['meets_budget'] else 'missed'}) | {row['accuracy_percent']:.2f} % | "
            f"{row['points_over_own_pick']:+.2f} +- {row['points_half_width']:.2f} points | "
            f"{row['arch']} |"
        )


if __name__ == "__main__":
    main()
