"""Our tuner against MetaSchedule's own rules and evolutionary search, on the same kernels.

Each tuner gets the same number of trials on the same workloads, one after the other; the best
schedules of both and our default schedule are then timed side by side. MetaSchedule runs with its
default CPU rules and a population that suits a small machine, and builds in the same kind of
persistent workers, because its own builder times out here. In the comparison each call starts its
threads: a candidate of MetaSchedule's cannot do otherwise, and ours is called with one repeat.

    .venv/bin/python benchmarks/tuners.py
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import logging
import math
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ofatvm.compiler.isa import vector_unit
from ofatvm.compiler.kernels import build_kernel, kernel_sizes
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.primfunc import workload_module
from ofatvm.compiler.program import FORWARD
from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.compiler.space import VectorUnit, default_config
from ofatvm.device.children import child_pool, outcome, set_threads
from ofatvm.pipeline.setup import resolve_target
from ofatvm.target import Target
from ofatvm.tuning.journal import Journal
from ofatvm.tuning.tune import tune
from ofatvm.tuning.workloads import WorkloadUse

WORKLOADS = (
    "pointwise_14x14x112_672_hswish",
    "pointwise_14x14x672_112_scaled_residual",
    "depthwise_k7s1_14x14x672_hswish",
    "depthwise_k5s2_56x56x144_relu",
)
BATCH = 16
ROUNDS = 3
TIMEOUT_S = 60.0
TRIAL, FINAL = (3, 8e-3), (9, 20e-3)
"""How many samples a kernel is timed with, and the seconds of each."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A packed function: its library, its name, what comes before its tensors, their shapes."""

    path: Path
    function: str
    leading: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]


class Pools:
    """Builders, one per core that is tuned for, and one runner; a context manager."""

    def __init__(self, target: Target, unit: VectorUnit, folder: Path) -> None:
        """The first job of each pool starts its processes."""
        self.target = target
        self.folder = folder
        self.builders = unit.threads
        self.build = child_pool(set_threads, 1, timeout_s=TIMEOUT_S, children=unit.threads)
        self.run = child_pool(set_threads, unit.threads, timeout_s=TIMEOUT_S)

    def __enter__(self) -> Pools:
        """Nothing to start."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop every process."""
        self.build.shutdown()
        self.run.shutdown()

    def time(
        self, candidate: Candidate, protocol: tuple[int, float]
    ) -> tuple[Sequence[float], str]:
        """Samples in seconds a call, or none and the error."""
        job = self.run.submit(
            time_calls,
            str(candidate.path),
            candidate.function,
            candidate.leading,
            candidate.shapes,
            *protocol,
        )
        samples, error = outcome(job, "run")
        return samples or (), error


def time_calls(
    path: str,
    function: str,
    leading: tuple[int, ...],
    shapes: tuple[tuple[int, ...], ...],
    count: int,
    sample_s: float,
) -> list[float]:
    """Seconds a call, in samples of enough calls, each of which starts its threads.

    Runs in the runner.
    """
    import numpy as np
    import tvm

    rng = np.random.default_rng(0)
    tensors = [
        tvm.runtime.tensor((rng.random(shape, dtype=np.float32) - np.float32(0.5)) / 5)
        for shape in shapes
    ]
    timer = tvm.runtime.load_module(path).time_evaluator
    first = timer(function, tvm.cpu(), number=1, repeat=3)(*leading, *tensors).results
    calls = max(1, math.ceil(sample_s / max(min(first), 1e-8)))
    evaluate = timer(function, tvm.cpu(), number=calls, repeat=count)
    return [float(second) for second in evaluate(*leading, *tensors).results]


def import_cpu_intrinsics() -> None:
    """Register the CPU intrinsics without the package's 15-37 s import of the GPU ones."""
    name = "tvm.s_tir.tensor_intrin"
    spec = importlib.util.find_spec(name)
    package = types.ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules[name] = package
    importlib.import_module("tvm.s_tir").tensor_intrin = package
    for module in ("x86", "arm_cpu"):
        importlib.import_module(f"{name}.{module}")


def build_candidate(text: str, target: dict[str, Any], path: str) -> None:
    """Compile a MetaSchedule candidate; runs in a builder."""
    import tvm
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

    from ofatvm.compiler.link import link_host

    module = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(tvm.ir.load_json(text))
    built = tvm.tirx.build(module, target=tvm.target.Target(target))
    built.export_library(path, fcompile=link_host)


def metaschedule(
    workload: Workload, pools: Pools, trials: int, model: Any
) -> tuple[Candidate | None, int]:
    """Tune with MetaSchedule; the best candidate, None where none runs, and the trials made."""
    import tvm
    from tvm.s_tir import meta_schedule as ms

    context = ms.TuneContext(
        workload_module(workload),
        target=tvm.target.Target(pools.target.to_dict()),
        space_generator="post-order-apply",
        search_strategy=ms.search_strategy.EvolutionarySearch(
            population_size=256, genetic_num_iters=3, init_min_unmeasured=32
        ),
        task_name=workload.key,
        rand_state=1,
        num_threads=pools.builders,
    )
    database = ms.database.MemoryDatabase()
    entry = database.commit_workload(context.mod)
    context.pre_tuning(trials, BATCH, None, database, model)
    best, best_s, made = None, math.inf, 0
    while found := context.generate_measure_candidates():
        paths = [pools.folder / f"{workload.key}-{made + i}.so" for i in range(len(found))]
        jobs = [
            pools.build.submit(
                build_candidate, tvm.ir.save_json(c.sch.mod), pools.target.to_dict(), str(path)
            )
            for c, path in zip(found, paths, strict=True)
        ]
        results = []
        for measured, path, job in zip(found, paths, jobs, strict=True):
            shapes = tuple(tuple(int(n) for n in a.shape) for a in measured.args_info)
            candidate = Candidate(path, "main", (), shapes)
            samples: Sequence[float] = ()
            _, error = outcome(job, "build")
            if not error:
                samples, error = pools.time(candidate, TRIAL)
            if samples:
                if statistics.median(samples) < best_s:
                    best, best_s = candidate, statistics.median(samples)
                database.commit_tuning_record(
                    ms.database.TuningRecord(
                        measured.sch.trace, entry, list(samples), context.target, None
                    )
                )
            results.append(ms.runner.RunnerResult(list(samples) or None, error or None))
        made += len(found)
        context.notify_runner_results(found, results)
        model.update(context, found, results)
    context.post_tuning()
    return best, made


def built(workload: Workload, pools: Pools, configs: dict[str, ScheduleConfig]) -> list[Candidate]:
    """Our schedules as programs of their own."""
    paths = [pools.folder / f"{workload.key}-{name}.so" for name in configs]
    jobs = [
        pools.build.submit(build_kernel, workload, config, "candidate", pools.target, path)
        for config, path in zip(configs.values(), paths, strict=True)
    ]
    for job in jobs:
        job.result()
    return [
        Candidate(path, FORWARD, (1,), tuple((size,) for size in kernel_sizes(workload, config)))
        for config, path in zip(configs.values(), paths, strict=True)
    ]


def side_by_side(pools: Pools, candidates: dict[str, Candidate]) -> dict[str, float]:
    """Median seconds a call of each, timed in turns."""
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(ROUNDS):
        for name, candidate in candidates.items():
            found, error = pools.time(candidate, FINAL)
            if error:
                raise SystemExit(f"{name}: {error}")
            samples[name] += found
    return {name: statistics.median(found) for name, found in samples.items()}


def compare(
    workload: Workload, pools: Pools, unit: VectorUnit, journal: Journal, trials: int, model: Any
) -> dict[str, Any]:
    """Tune a workload both ways, and time the winners and our default."""
    started = time.perf_counter()
    theirs, made = metaschedule(workload, pools, trials, model)
    stock_s = time.perf_counter() - started
    if theirs is None:
        raise SystemExit(f"{workload.key}: none of MetaSchedule's {made} candidates runs")
    started = time.perf_counter()
    use = WorkloadUse(workload, 1.0, float(workload.macs), 1.0)
    tune([use], pools.target, unit, journal, trials_per_workload=trials)
    ours_s = time.perf_counter() - started
    best = journal.best(workload.key)
    if best is None:
        raise SystemExit(f"{workload.key}: none of our schedules runs")
    configs = {"ours": best.config, "default": default_config(workload, unit)}
    ours = dict(zip(configs, built(workload, pools, configs), strict=True))
    median = side_by_side(pools, {"metaschedule": theirs, **ours})
    return {
        "workload": workload.key,
        "trials": {"metaschedule": made, "ours": len(journal.trials[workload.key])},
        "tuning_s": {"metaschedule": round(stock_s, 1), "ours": round(ours_s, 1)},
        "gflops": {
            name: round(2 * workload.macs / second / 1e9, 1) for name, second in median.items()
        },
        "speedup": round(median["metaschedule"] / median["ours"], 2),
    }


def main() -> None:
    """Tune each workload both ways and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="x86-64-v3")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument(
        "--workload", action="append", choices=WORKLOADS, help="[default: each of these]"
    )
    options = parser.parse_args()
    logging.disable(logging.INFO)
    import_cpu_intrinsics()
    from tvm.s_tir import meta_schedule as ms

    target = resolve_target(options.target)
    unit = vector_unit(target)
    model = ms.cost_model.XGBModel(num_warmup_samples=32, num_tuning_cores=unit.threads)
    with (
        tempfile.TemporaryDirectory() as folder,
        Journal.open(Path(folder) / "logs") as journal,
        Pools(target, unit, Path(folder)) as pools,
    ):
        for workload in map(Workload.parse, options.workload or WORKLOADS):
            row = compare(workload, pools, unit, journal, options.trials, model)
            print(json.dumps(row), flush=True)
    print(
        json.dumps(
            {
                "target": target.name,
                "threads": unit.threads,
                "versions": {n: metadata.version(n) for n in ("ofatvm", "apache-tvm", "xgboost")},
            }
        )
    )


if __name__ == "__main__":
    main()
