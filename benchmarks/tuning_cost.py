"""What tuning networks one by one costs, and what a subnet costs once its space is tuned.

Random subnets are tuned each alone from nothing, by the same tuner with as many trials a workload
as the space got; the accounts are those of `ofatvm tune`. Then subnets are compiled from the
shipped records, weights included: the first with an empty kernel library, each next one with what
the ones before it left. `ofatvm report --cost` sets these figures beside the space's ledger.

It takes minutes on a machine that does nothing else. Journals stay in --workspace: what was
interrupted continues, and its time counts in full.

    .venv/bin/python benchmarks/tuning_cost.py [--target x86-64-v3] [--trials-per-workload 64]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ofatvm.arch import Arch
from ofatvm.compiler.isa import vector_unit
from ofatvm.compiler.plan import kernel_calls
from ofatvm.compiler.relax import build_model
from ofatvm.files import replace_file
from ofatvm.graph import operator_graph, totals
from ofatvm.paths import data_dir
from ofatvm.pipeline.setup import Setup, prepare, resolve_target
from ofatvm.pipeline.tuning_run import Job, account
from ofatvm.spaces import OFA_SPACE, find_space
from ofatvm.supernet.numpy_io import subnet_weights
from ofatvm.target import Target
from ofatvm.tuning.energy import cpu_seconds, this_machine
from ofatvm.tuning.journal import Journal
from ofatvm.tuning.ledger import read_ledger, tool_versions
from ofatvm.tuning.records import write_owner
from ofatvm.tuning.tune import tune
from ofatvm.tuning.workloads import coverage, subnet_workloads

UNACCOUNTED = 0.02


def tuned_alone(arch: Arch, target: Target, folder: Path, trials: int) -> dict[str, Any]:
    """Tune one network from nothing and say what it took, earlier runs into the folder included."""
    uses = subnet_workloads(arch)
    unit = vector_unit(target)
    runs = read_ledger(folder).sessions
    if not runs or runs[-1].status != "finished":
        with Journal.open(folder) as journal:
            write_owner(folder, target, unit, "measured")
            job = Job(arch.encode(), (arch.resolution,), (uses,), trials)
            with account(folder, lambda: journal.count, target, job) as listener:
                tune(uses, target, unit, journal, trials_per_workload=trials, on_event=listener)
    spent = read_ledger(folder)
    made = Journal.read(folder).count
    if made - spent.trials > UNACCOUNTED * made:
        raise SystemExit(
            f"{folder}: {made - spent.trials} of {made} trials were made by runs that were killed "
            "before they were accounted for; delete the folder to measure anew"
        )
    return {
        "arch": arch.encode(),
        "macs": totals(operator_graph(arch)).macs,
        "workloads": len(uses),
        "trials": made,
        "unaccounted_trials": made - spent.trials,
        "wall_s": round(spent.wall_s, 1),
        "cpu_s": round(spent.cpu_s, 1),
        "energy_j": round(spent.energy_j, 1),
        "energy_method": "; ".join(spent.energy_methods),
        "runs": len(spent.sessions),
    }


def compiled(arch: Arch, setup: Setup, folder: Path) -> dict[str, Any]:
    """Compile a subnet with its weights from the shipped records, and say what it took."""
    weights = subnet_weights(arch, weights=None, seed=0).folded
    wall, cpu = time.monotonic(), cpu_seconds()
    graph = operator_graph(arch)
    workloads = {call.workload for call in kernel_calls(graph)}
    missing = len(setup.library.missing(workloads))
    build_model(graph, setup.library.require(workloads), weights, setup.target, folder / "model.so")
    return {
        "arch": arch.encode(),
        "trials": 0,
        "coverage": coverage(subnet_workloads(arch), setup.records.configs),
        "new_kernels": missing,
        "wall_s": round(time.monotonic() - wall, 2),
        "cpu_s": round(cpu_seconds() - cpu, 2),
    }


def compile_in_turn(
    archs: list[Arch], target: str, threads: int | None, resolution: int
) -> list[dict[str, Any]]:
    """Compile subnets one after another, with a kernel library that is empty at first."""
    with (
        tempfile.TemporaryDirectory(prefix="ofatvm-cost-") as folder,
        prepare(
            target,
            space_name=OFA_SPACE,
            resolution=resolution,
            workspace=Path(folder),
            threads=threads,
            tuning_logs=data_dir("tuning_logs"),
        ) as setup,
    ):
        # The processes' start and TVM's import are no part of compiling the first subnet.
        list(setup.executor.map(resolve_target, [target] * 8))
        return [compiled(arch, setup, Path(folder)) for arch in archs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="x86-64-v3")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--trials-per-workload", type=int, default=64)
    parser.add_argument("--subnets", type=int, default=3, help="networks tuned each alone")
    parser.add_argument("--compiled", type=int, default=4, help="subnets compiled from records")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workspace", type=Path, default=Path(".ofatvm/tuning-cost"))
    parser.add_argument("--out", type=Path, default=data_dir("results") / "tuning_cost.json")
    options = parser.parse_args()

    target = resolve_target(options.target, options.threads)
    space = find_space(OFA_SPACE).at(options.resolution)
    count = max(options.subnets, options.compiled)
    archs = space.from_rows(space.sample_rows(np.random.default_rng(options.seed), count))
    alone = []
    for arch in archs[: options.subnets]:
        name = f"{target.fingerprint}-{target.threads}-{options.trials_per_workload}"
        folder = options.workspace / name / arch.encode().replace("/", "_")
        alone.append(tuned_alone(arch, target, folder, options.trials_per_workload))
        print(json.dumps(alone[-1]), flush=True)
    subnets = compile_in_turn(
        archs[: options.compiled], options.target, options.threads, options.resolution
    )
    for entry in subnets:
        print(json.dumps(entry), flush=True)
    content = {
        "schema": 1,
        "target": target.name,
        "fingerprint": target.fingerprint,
        "threads": target.threads,
        "resolution": options.resolution,
        "trials_per_workload": options.trials_per_workload,
        "seed": options.seed,
        "alone": alone,
        "compiled": subnets,
        "machine": this_machine(),
        "versions": tool_versions(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(options.out, (json.dumps(content, indent=1) + "\n").encode())
    print(f"written to {options.out}; `ofatvm report --cost --target {options.target}` shows it")


if __name__ == "__main__":
    main()
