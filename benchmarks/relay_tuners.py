"""AutoTVM beside MetaSchedule on TVM 0.19 at small budgets, on convolutions of the two spaces.

Three ways to a kernel with the same number of trials at most: AutoTVM's template with channels cut
by ofatvm's rule (its whole space, some twenty points), the same template with everything open
(XGBTuner), and MetaSchedule on the same computation in the rule's layout; the tuners' models learn
from every 16 trials. Each one's best is then timed interleaved in one process. With everything
open, the template may cut channels in a way that costs a transposition in a network; that is not
counted. Run it on a quiet machine, after `make relay`, in that environment:

    PYTHONPATH=. .venv-relay/bin/python benchmarks/relay_tuners.py
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ofatvm.compiler.plan import Workload
from ofatvm.relay.about import tvm_version
from ofatvm.relay.blocks import Blocking, argument_shapes
from ofatvm.relay.task import task_key, task_of

RESULT = Path(__file__).resolve().parent / "results" / "relay_tuners.json"
WORKLOADS = (
    (224, Workload("pointwise", (14, 14, 112), (14, 14, 672), bias=False)),
    (224, Workload("pointwise", (56, 56, 24), (56, 56, 96), bias=False)),
    (224, Workload("depthwise", (28, 28, 120), (28, 28, 120), kernel=5, bias=False)),
    (28, Workload("pointwise", (7, 7, 192), (7, 7, 48), bias=False)),
    (28, Workload("depthwise", (14, 14, 64), (14, 14, 64), kernel=3, bias=False)),
    (28, Workload("conv", (28, 28, 1), (14, 14, 16), kernel=3, stride=2, bias=False)),
)
"""Resolution of the network, and a kernel in it."""
LEARNS_FROM = 16
LARGE_IMAGES = 64  # as in ofatvm.compiler.relay, which this environment does not import
SEED = 0
Timed = Callable[[], float]


def main() -> None:
    """Tune each workload in the three ways, time the results, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    os.environ["TVM_NUM_THREADS"] = str(options.threads)
    os.environ["TOPHUB_LOCATION"] = "NONE"
    import tvm

    logging.disable(logging.WARNING)
    cpu = tvm.target.codegen.llvm_get_system_cpu()
    target = {"kind": "llvm", "mcpu": cpu, "num-cores": options.threads}
    rows = []
    for resolution, workload in WORKLOADS:
        blocking = blocking_for(target, resolution)
        row: dict[str, Any] = {"task": task_key(workload), "macs": workload.macs}
        contestants: dict[str, Timed] = {}
        for name, make in (
            ("rule", autotvm_by_rule),
            ("AutoTVM", autotvm_open),
            ("MetaSchedule", meta_schedule),
        ):
            began = time.perf_counter()
            random.seed(SEED)
            np.random.seed(SEED)
            timed, trials = make(workload, target, options.trials, blocking)
            row[name] = {"seconds": round(time.perf_counter() - began, 1), **trials}
            contestants[name] = timed
        samples: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(options.rounds):
            for name, timed in contestants.items():
                samples[name].append(timed())
        for name, found in samples.items():
            low, middle, high = np.percentile(np.array(found) * 1e6, (5, 50, 95))
            row[name] |= {"us": float(middle), "us_low": float(low), "us_high": float(high)}
        rows.append(row)
        print(line(row), flush=True)
    result = {
        "cpu": cpu,
        "threads": options.threads,
        "tvm": tvm_version(),
        "trials": options.trials,
        "rows": rows,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print("| task | by rule, us | AutoTVM, all open | MetaSchedule |\n|---|---|---|---|")
    for row in rows:
        print(line(row))


def line(row: dict[str, Any]) -> str:
    """A row of the table: microseconds, trials and seconds of tuning."""
    cells = [
        f"{row[name]['us']:.1f} ({row[name]['us_low']:.1f}-{row[name]['us_high']:.1f}; "
        f"{row[name]['trials']} trials, {row[name]['failed']} failed, {row[name]['seconds']:.0f} s)"
        for name in ("rule", "AutoTVM", "MetaSchedule")
    ]
    return f"| {row['task']} | {' | '.join(cells)} |"


def blocking_for(target: dict[str, Any], resolution: int) -> Blocking:
    """How ofatvm cuts channels for the CPU's vectors."""
    import tvm
    from tvm.target.x86 import get_simd_32bit_lanes

    with tvm.target.Target(target):
        lanes = int(get_simd_32bit_lanes())
    return Blocking(lanes, lanes * (1 if resolution < LARGE_IMAGES else 2))


def autotvm_by_rule(
    workload: Workload, target: dict[str, Any], trials: int, blocking: Blocking
) -> tuple[Timed, dict[str, int]]:
    """All points that cut channels by the rule."""
    cut = {
        "tile_ic": blocking.block(workload.in_shape[-1]),
        "tile_oc": blocking.block(workload.out_shape[-1]),
    }
    return _autotvm(workload, target, trials, cut)


def autotvm_open(
    workload: Workload, target: dict[str, Any], trials: int, blocking: Blocking
) -> tuple[Timed, dict[str, int]]:
    """The template as it is."""
    del blocking
    return _autotvm(workload, target, trials, {})


def _autotvm(
    workload: Workload, target: dict[str, Any], trials: int, cut: dict[str, int]
) -> tuple[Timed, dict[str, int]]:
    from tvm import autotvm

    from ofatvm.relay.space import task_in

    template, arguments = task_of(workload)
    with task_in(template, arguments, target, cut) as task, tempfile.TemporaryDirectory() as name:
        log = Path(name) / "log"
        tuner = autotvm.tuner.XGBTuner(
            task, plan_size=LEARNS_FROM, loss_type="reg", feature_type="knob"
        )
        tuner.tune(
            n_trial=min(trials, task.config_space.range_length),
            measure_option=autotvm.measure_option(
                builder=autotvm.LocalBuilder(),
                runner=autotvm.LocalRunner(number=20, repeat=3, min_repeat_ms=20),
            ),
            callbacks=[autotvm.callback.log_to_file(str(log))],
        )
        results = [json.loads(line)["result"] for line in log.read_text().splitlines()]
        failed = sum(error != 0 for _, error, *_ in results)
        assert failed < len(results), f"all {failed} trials of {task_key(workload)} failed"
        best = autotvm.task.ApplyHistoryBest(str(log))
        config = best.query(task.target, task.workload)
        autotvm.GLOBAL_SCOPE.in_tuning = True  # layouts as they are tuned: nothing is packed
        with task.target:
            schedule, tensors = task.instantiate(config)
        autotvm.GLOBAL_SCOPE.in_tuning = False
        return _timed(schedule, tensors, task.target), {"trials": len(results), "failed": failed}


def meta_schedule(
    workload: Workload, target: dict[str, Any], trials: int, blocking: Blocking
) -> tuple[Timed, dict[str, int]]:
    """The convolution in the rule's layout, without a template."""
    import tvm
    from tvm import meta_schedule as ms
    from tvm import te, topi

    data, kernel = argument_shapes(workload, blocking)[:2]
    x, w = te.placeholder(data, name="x"), te.placeholder(kernel, name="w")
    half = workload.kernel // 2
    strides, padding = [workload.stride] * 2, [half] * 4
    layouts = (f"NCHW{data[-1]}c", f"NCHW{kernel[-1]}c")
    built_for = tvm.target.Target(target)
    with built_for:
        if workload.kind == "depthwise":
            y = _depthwise(x, w, workload)
        else:
            y = topi.nn.conv2d_NCHWc(x, w, strides, padding, 1, *layouts, "float32")
        module = tvm.IRModule({"main": te.create_prim_func([x, w, y])})
    with tempfile.TemporaryDirectory() as name:
        database = ms.tune_tir(
            mod=module,
            target=built_for,
            work_dir=name,
            max_trials_global=trials,
            num_trials_per_iter=LEARNS_FROM,
            cost_model=ms.cost_model.XGBModel(num_warmup_samples=LEARNS_FROM),
            seed=SEED,
        )
        schedule = ms.tir_integration.compile_tir(database, module, built_for)
        assert schedule is not None, f"no trial of {task_key(workload)} worked"
        records = database.get_all_tuning_records()
        failed = sum(not _worked(record) for record in records)
    counts = {"trials": len(records), "failed": failed}
    return _timed(schedule.mod["main"], [x, w, y], built_for), counts


def _depthwise(x: Any, w: Any, workload: Workload) -> Any:
    """A depthwise convolution in blocks, which TVM has as a template alone."""
    from tvm import te, topi

    half, stride = workload.kernel // 2, workload.stride
    padded = topi.nn.pad(x, (0, 0, half, half, 0), (0, 0, half, half, 0))
    rows = te.reduce_axis((0, workload.kernel), name="kh")
    columns = te.reduce_axis((0, workload.kernel), name="kw")
    height, width, _ = workload.out_shape
    return te.compute(
        (1, x.shape[1], height, width, x.shape[-1]),
        lambda n, c, i, j, b: te.sum(
            padded[n, c, i * stride + rows, j * stride + columns, b] * w[c, 0, rows, columns, 0, b],
            axis=[rows, columns],
        ),
        name="depthwise",
    )


def _worked(record: Any) -> bool:
    return bool(record.run_secs) and float(record.run_secs[0]) < 1e9


def _timed(function: Any, tensors: Any, target: Any) -> Timed:
    import tvm

    built = tvm.build(function, tensors if not hasattr(function, "buffer_map") else None, target)
    rng = np.random.default_rng(0)
    arrays = [
        tvm.nd.array(rng.random([int(n) for n in tensor.shape], dtype=np.float32))
        for tensor in tensors
    ]
    evaluate = built.time_evaluator(built.entry_name, tvm.cpu(), number=1, min_repeat_ms=20)
    return lambda: float(evaluate(*arrays).mean)


if __name__ == "__main__":
    main()
