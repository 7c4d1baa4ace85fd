"""The simulated device against the real one: this machine's kernels and networks, by both.

Kernels: workloads of the small space and of OFA's, each under schedules drawn uniformly from its
schedule space. Networks: uniformly drawn subnets of both spaces, with the shipped records. Each is
simulated and measured with one thread. One scale is fitted to each set, the median ratio, since a
virtual machine hides its clock. Beside the simulator stands the simplest one: instructions counted.

The machine description must be of the CPU it runs on. It takes some minutes on a machine that does
nothing else.

    .venv/bin/python benchmarks/simulator_fidelity.py [--machine benchmarks/machines/zen4-avx2.toml]
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from ofatvm.compiler.kernels import Kernel, compile_kernels, kernel_digest
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.compiler.space import schedule_space
from ofatvm.device.simulated import SimulatedDevice, milliseconds
from ofatvm.device.simulator.cost import StepCost
from ofatvm.device.timing import Protocol
from ofatvm.files import replace_file
from ofatvm.measurement import now
from ofatvm.paths import data_dir
from ofatvm.pipeline.devices import open_device
from ofatvm.pipeline.measure import compile_space, programs_for
from ofatvm.pipeline.setup import Setup, prepare
from ofatvm.spaces import OFA_SPACE, find_space
from ofatvm.store import Store
from ofatvm.supernet.folder import DEFAULT_SUPERNET, find_supernet
from ofatvm.tuning.energy import this_machine
from ofatvm.tuning.ledger import tool_versions
from ofatvm.tuning.workloads import space_workloads

PROTOCOL = Protocol(processes=1, rounds=8, block_ms=40.0, warmup_ms=10.0, half_width=0.005)
SCHEDULES = 4
REPEATED = 10
Candidate = tuple[Workload, ScheduleConfig]


def spaces() -> list[tuple[str, int]]:
    """Names and largest resolutions of the two spaces."""
    names = [find_supernet(DEFAULT_SUPERNET).space.name, OFA_SPACE]
    return [(name, find_space(name).resolutions[-1]) for name in names]


def drawn_kernels(setup: Setup, workloads: int, seed: int) -> list[Candidate]:
    """Schedules drawn uniformly for workloads drawn uniformly, half from each space."""
    rng = random.Random(seed)
    chosen: list[Candidate] = []
    for name, resolution in spaces():
        uses = space_workloads(find_space(name), resolution)
        every = sorted({use.workload for use in uses})
        for workload in rng.sample(every, workloads // 2):
            space = schedule_space(workload, setup.unit)
            configs = rng.sample(space, min(SCHEDULES, len(space)))
            chosen += [(workload, config) for config in configs]
    return list(dict.fromkeys(chosen))


def measured_kernels(
    setup: Setup, store: Store, candidates: Sequence[Candidate], folder: Path
) -> list[float]:
    """Milliseconds of each candidate on this machine."""
    kernels = []
    for workload, config in candidates:
        digest = kernel_digest(workload, config, setup.target)
        kernels.append(Kernel(workload, config, digest, folder / f"{digest}.so", True))
    jobs = [setup.executor.submit(compile_kernels, [k], setup.target) for k in kernels]
    for job in jobs:
        job.result()
    with open_device(setup, store) as device:
        times = device.time_kernels(kernels)
    return [times[kernel.digest] for kernel in kernels]


def figures(simulated: Sequence[float], measured: Sequence[float]) -> dict[str, float]:
    """Rank correlation, and errors in percent after one scale."""
    found, truth = np.array(simulated), np.array(measured)
    scale = float(np.exp(np.median(np.log(truth / found))))
    errors = 100 * np.abs(scale * found / truth - 1)
    return {
        "count": len(found),
        "spearman": float(spearmanr(found, truth).statistic),
        "scale": scale,
        "mape_percent": float(errors.mean()),
        "p90_percent": float(np.percentile(errors, 90)),
        "worst_percent": float(errors.max()),
    }


def within_workloads(
    candidates: Sequence[Candidate], simulated: Sequence[float], measured: Sequence[float]
) -> dict[str, float]:
    """Mean rank correlation among the schedules of a workload, and how often the best is found."""
    groups: dict[Workload, list[int]] = defaultdict(list)
    for place, (workload, _) in enumerate(candidates):
        groups[workload].append(place)
    ranks, regrets = [], []
    for places in groups.values():
        found, truth = np.array(simulated)[places], np.array(measured)[places]
        if len(places) == SCHEDULES and found.min() < found.max():
            ranks.append(float(spearmanr(found, truth).statistic))
        if len(places) == SCHEDULES:
            regrets.append(float(truth[found.argmin()] / truth.min() - 1))
    return {
        "workloads": len(regrets),
        "mean_spearman": float(np.mean(ranks)),
        "mean_regret_percent": 100 * float(np.mean(regrets)),
    }


def kernels_part(options: argparse.Namespace, opened: Callable[..., Any]) -> dict[str, Any]:
    name, resolution = spaces()[0]
    with (
        opened(name, resolution, "local") as setup,
        Store.open(options.workspace) as store,
        SimulatedDevice(setup.target, options.workspace / "simulator") as simulator,
        tempfile.TemporaryDirectory(prefix="ofatvm-fidelity-") as folder,
    ):
        candidates = drawn_kernels(setup, options.workloads, options.seed)
        print(f"{len(candidates)} kernels: simulating", flush=True)
        outcomes = simulator.simulations.candidates(candidates)
        costs = [cost for [cost], error in outcomes if not error]
        assert len(costs) == len(candidates), [error for _, error in outcomes if error][:3]
        with SimulatedDevice(setup.target, Path(folder) / "again") as second:
            again = second.simulations.candidates(candidates[:REPEATED])
        identical = again == outcomes[:REPEATED]
        print("measuring", flush=True)
        measured = measured_kernels(setup, store, candidates, Path(folder))
        simulated = [milliseconds([cost], simulator.machine) for cost in costs]
        instructions = [float(cost.instructions) for cost in costs]
        return {
            "identical_when_repeated": identical,
            "simulator": simulator.simulations.digest,
            "kernels": figures(simulated, measured)
            | {"within": within_workloads(candidates, simulated, measured)},
            "instructions": figures(instructions, measured)
            | {"within": within_workloads(candidates, instructions, measured)},
            "rows": [
                row(workload.key, str(config), cost, s, m)
                for (workload, config), cost, s, m in zip(
                    candidates, costs, simulated, measured, strict=True
                )
            ],
        }


def row(name: str, detail: str, cost: StepCost, simulated: float, measured: float) -> Any:
    return {
        "kernel": name,
        "schedule": detail,
        "compute_cycles": round(cost.compute_cycles, 1),
        "memory_cycles": round(cost.memory_cycles, 1),
        "simulated_ms": simulated,
        "measured_ms": measured,
    }


def subnets_part(options: argparse.Namespace, opened: Callable[..., Any]) -> dict[str, Any]:
    rows = []
    for name, resolution in spaces():
        with opened(name, resolution, "local") as setup, Store.open(options.workspace) as store:
            rng = np.random.default_rng(options.seed)
            count = options.subnets // 2
            archs = setup.space.from_rows(setup.space.sample_rows(rng, count))
            compile_space(setup)
            programs = programs_for(setup, archs)
            with SimulatedDevice(setup.target, options.workspace / "simulator") as simulator:
                print(f"{count} subnets of {name}: simulating", flush=True)
                simulated = simulator.measure(programs, PROTOCOL, seed=options.seed)
            print("measuring", flush=True)
            with open_device(setup, store) as device:
                measured = device.measure(programs, PROTOCOL, seed=options.seed)
            for arch, s, m in zip(archs, simulated, measured, strict=True):
                assert not isinstance(s, str), s
                assert not isinstance(m, str), m
                rows.append(
                    {
                        "arch": arch.encode(),
                        "simulated_ms": s.latency_ms,
                        "measured_ms": m.latency_ms,
                        "ci_low_ms": m.ci_low_ms,
                        "ci_high_ms": m.ci_high_ms,
                    }
                )

    def of(kept: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        return figures([r["simulated_ms"] for r in kept], [r["measured_ms"] for r in kept])

    half = len(rows) // 2
    return {
        "subnets": of(rows),
        "small_space": of(rows[:half]),
        "ofa_space": of(rows[half:]),
        "subnet_rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--machine", type=Path, default=Path(__file__).parent / "machines" / "zen4-avx2.toml"
    )
    parser.add_argument("--workloads", type=int, default=40, help="Of four schedules each.")
    parser.add_argument("--subnets", type=int, default=32)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--workspace", type=Path, default=Path(".ofatvm/fidelity"))
    parser.add_argument("--out", type=Path, default=data_dir("results") / "simulator_fidelity.json")
    options = parser.parse_args()

    def opened(space: str, resolution: int, device: str) -> Any:
        return prepare(
            str(options.machine),
            space_name=space,
            resolution=resolution,
            workspace=options.workspace,
            threads=1,
            device=device,
        )

    result: dict[str, Any] = {
        "when": now(),
        "machine": this_machine(),
        "description": options.machine.name,
        "versions": tool_versions(),
        "seed": options.seed,
        **kernels_part(options, opened),
        **subnets_part(options, opened),
    }
    replace_file(options.out, json.dumps(result, indent=1).encode() + b"\n")
    print("\n| | n | Spearman | MAPE after one scale | p90 | worst | within a workload |")
    print("|---|---|---|---|---|---|---|")
    for key in ("kernels", "instructions", "subnets", "small_space", "ofa_space"):
        f = result[key]
        within = f"{f['within']['mean_spearman']:.2f}" if "within" in f else ""
        print(
            f"| {key} | {f['count']} | {f['spearman']:.4f} | {f['mape_percent']:.1f} % | "
            f"{f['p90_percent']:.1f} % | {f['worst_percent']:.1f} % | {within} |"
        )
    print(f"\nThe same numbers when simulated again: {result['identical_when_repeated']}")


if __name__ == "__main__":
    main()
