"""Our tuner against MetaSchedule's own rules and evolutionary search, on the same kernels.

Each tuner gets the same number of trials on the same workloads, one after the other; the best
schedules of both and our default schedule are then timed side by side. MetaSchedule runs with its
default CPU rules and a population that suits a small machine, and builds in the same kind of
persistent workers, because its own builder times out here.

    .venv/bin/python benchmarks/tuners.py
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import logging
import sys
import tempfile
import time
import types
from importlib import metadata
from pathlib import Path
from typing import Any

from ofatvm.compiler.isa import vector_unit
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.primfunc import workload_module
from ofatvm.compiler.schedule import kernel_shapes
from ofatvm.compiler.space import default_config
from ofatvm.pipeline.setup import resolve_target
from ofatvm.tuning.journal import Journal
from ofatvm.tuning.tune import tune
from ofatvm.tuning.workers import Timing, Workers
from ofatvm.tuning.workloads import WorkloadUse

WORKLOADS = (
    "pointwise_14x14x112_672_hswish",
    "pointwise_14x14x672_112_scaled_residual",
    "depthwise_k7s1_14x14x672_hswish",
    "depthwise_k5s2_56x56x144_relu",
)
BATCH = 16
FINAL = Timing(repeats=9, sample_ms=20)


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


def metaschedule(workload: Workload, workers: Workers, trials: int, folder: Path, model: Any):
    """Tune with MetaSchedule; the best candidate's module path, argument shapes and trials run."""
    import tvm
    from tvm.s_tir import meta_schedule as ms

    from ofatvm.tuning.workers import _outcome

    context = ms.TuneContext(
        workload_module(workload),
        target=tvm.target.Target(workers.target),
        space_generator="post-order-apply",
        search_strategy=ms.search_strategy.EvolutionarySearch(
            population_size=256, genetic_num_iters=3, init_min_unmeasured=32
        ),
        task_name=workload.key,
        rand_state=1,
        num_threads=workers.builders,
    )
    database = ms.database.MemoryDatabase()
    entry = database.commit_workload(context.mod)
    context.pre_tuning(trials, BATCH, None, database, model)
    best, count = (float("inf"), None, None), 0
    while candidates := context.generate_measure_candidates():
        paths = [folder / f"{workload.key}-{count + i}.so" for i in range(len(candidates))]
        jobs = [
            workers._build_pool.submit(
                build_candidate, tvm.ir.save_json(c.sch.mod), workers.target, str(path)
            )
            for c, path in zip(candidates, paths, strict=True)
        ]
        results = []
        for candidate, path, job in zip(candidates, paths, jobs, strict=True):
            shapes = [tuple(int(n) for n in a.shape) for a in candidate.args_info]
            seconds: tuple[float, ...] = ()
            _, error = _outcome(None, job, "build")
            if not error:
                kept = path.with_suffix(".kept.so")
                kept.hardlink_to(path)
                seconds, error = workers.run(path, shapes, Timing())
                if seconds and sorted(seconds)[1] < best[0]:
                    best = (sorted(seconds)[1], kept, shapes)
            results.append(ms.runner.RunnerResult(list(seconds) or None, error or None))
            if seconds:
                database.commit_tuning_record(
                    ms.database.TuningRecord(
                        candidate.sch.trace, entry, list(seconds), context.target, None
                    )
                )
        count += len(candidates)
        context.notify_runner_results(candidates, results)
        model.update(context, candidates, results)
    context.post_tuning()
    return best[1], best[2], count


def main() -> None:
    """Tune each workload both ways and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="x86-64-v3")
    parser.add_argument("--trials", type=int, default=64)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    import_cpu_intrinsics()
    from tvm.s_tir import meta_schedule as ms

    target = resolve_target(options.target)
    unit = vector_unit(target)
    model = ms.cost_model.XGBModel(num_warmup_samples=32, num_tuning_cores=unit.threads)
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Journal.open(Path(folder) / "logs") as journal,
        Workers(target.to_dict(), unit, builders=unit.threads) as workers,
    ):
        for workload in map(Workload.parse, WORKLOADS):
            started = time.perf_counter()
            path, shapes, count = metaschedule(
                workload, workers, options.trials, Path(folder), model
            )
            stock_s = time.perf_counter() - started
            started = time.perf_counter()
            use = WorkloadUse(workload, 1.0, float(workload.macs), 1.0)
            tune([use], target, unit, journal, trials_per_workload=options.trials)
            ours_s = time.perf_counter() - started
            configs = {"ours": journal.best(workload.key).config}
            configs["default"] = default_config(workload, unit)
            built = workers.build([(workload, config) for config in configs.values()])
            contestants = {"metaschedule": (path, shapes)}
            for (name, config), (module, _) in zip(configs.items(), built, strict=True):
                contestants[name] = (module, kernel_shapes(workload, config))
            samples: dict[str, list[float]] = {name: [] for name in contestants}
            for _ in range(3):
                for name, (module, arguments) in contestants.items():
                    copy = module.with_suffix(".run.so")
                    copy.hardlink_to(module)
                    samples[name] += workers.run(copy, arguments, FINAL)[0]
            median = {name: sorted(found)[len(found) // 2] for name, found in samples.items()}
            rows.append(
                {
                    "workload": workload.key,
                    "trials": {"metaschedule": count, "ours": len(journal.trials[workload.key])},
                    "tuning_s": {"metaschedule": round(stock_s, 1), "ours": round(ours_s, 1)},
                    "gflops": {
                        name: round(2 * workload.macs / second / 1e9, 1)
                        for name, second in median.items()
                    },
                    "speedup": round(median["metaschedule"] / median["ours"], 2),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
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
