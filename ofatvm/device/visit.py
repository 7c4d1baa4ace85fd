"""What runs inside a device's child process: load programs and kernels, time them."""

from __future__ import annotations

import math
import os
import time
from collections import OrderedDict
from functools import cache
from typing import Any

MAX_LOADED = 24
POOL = 1 << 22
CALIBRATION_S = 0.005
REFERENCE_ROUNDS = 60
# A compiled kernel as a child process gets it: file, symbol, argument shapes.
KernelSpec = tuple[str, str, list[tuple[int, ...]]]
# A compiled program: file, its kernels' files, argument shapes.
ProgramSpec = tuple[str, list[str], list[tuple[int, ...]]]
YARDSTICK_CALLS = 15
RECENT_S = 0.08
_loaded: OrderedDict[str, Any] = OrderedDict()
_last: list[Any] = []


def initialise(threads: int) -> None:
    """Fix the thread count and the cores before TVM starts its thread pool."""
    os.environ["TVM_NUM_THREADS"] = str(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def visit_program(
    program: ProgramSpec,
    yardstick: ProgramSpec | list[KernelSpec],
    warmup_ms: float,
    block_ms: float,
) -> tuple[list[float], tuple[float, float]]:
    """Calls' seconds for one block, and the yardstick's seconds before and after it."""
    import tvm

    machine = _program(*program)
    evaluate = machine.time_evaluator
    first = evaluate("invoke_stateful", tvm.cpu(), number=1, repeat=3)("main").results
    estimate = max(min(first), 1e-6)
    warm = max(1, int(warmup_ms / 1e3 / estimate))
    evaluate("invoke_stateful", tvm.cpu(), number=warm, repeat=1)("main")
    before = _recent(yardstick)
    count = max(5, min(2000, int(block_ms / 1e3 / estimate)))
    calls = evaluate("invoke_stateful", tvm.cpu(), number=1, repeat=count)("main").results
    return [float(call) for call in calls], (before, _calibrate(yardstick))


def time_kernels(
    kernels: list[KernelSpec],
    calibration: list[KernelSpec],
    block_ms: float,
) -> tuple[list[float], float]:
    """Median seconds a call of each kernel alone, and the calibration kernels' seconds."""
    before = _calibrate(calibration)
    times = [_kernel_time(kernel, block_ms / 1e3) for kernel in kernels]
    return times, (before + _calibrate(calibration)) / 2


def reference_time(yardstick: ProgramSpec | list[KernelSpec]) -> float:
    """The yardstick's seconds on an undisturbed machine: nearly the least of many."""
    return sorted(_calibrate(yardstick) for _ in range(REFERENCE_ROUNDS))[REFERENCE_ROUNDS // 10]


def _program(path: str, kernels: list[str], shapes: list[tuple[int, ...]]) -> Any:
    import tvm
    from tvm import relax

    if path in _loaded:
        _loaded.move_to_end(path)
        return _loaded[path]
    module = tvm.runtime.load_module(path)
    for kernel in kernels:
        module.import_module(_module(kernel))
    machine = relax.VirtualMachine(module, tvm.cpu())
    machine.set_input("main", *_random(shapes))
    _loaded[path] = machine
    while len(_loaded) > MAX_LOADED:
        _loaded.popitem(last=False)
    return machine


@cache
def _module(path: str) -> Any:
    """A kernel's module, loaded once for all programs that call it."""
    import tvm

    return tvm.runtime.load_module(path)


@cache
def _pool() -> Any:
    """Random numbers, small enough that activations neither overflow nor become denormal."""
    import numpy as np

    rng = np.random.default_rng(0)
    return (rng.random(POOL, dtype=np.float32) - np.float32(0.5)) * np.float32(0.2)


def _random(shapes: list[tuple[int, ...]]) -> list[Any]:
    """Tensors of their own memory for every shape, filled from the pool."""
    import numpy as np
    import tvm

    pool, start, tensors = _pool(), 0, []
    for shape in shapes:
        size = math.prod(shape)
        if start + size > len(pool):
            start = 0
        values = pool[start : start + size] if size <= len(pool) else np.resize(pool, size)
        tensors.append(tvm.runtime.tensor(values.reshape(shape)))
        start += size
    return tensors


_kernels: dict[str, tuple[Any, list[Any]]] = {}


def _kernel_time(kernel: KernelSpec, block_s: float) -> float:
    import tvm

    path, symbol, shapes = kernel
    if path not in _kernels:
        _kernels[path] = (_module(path), _random(shapes))
    module, arguments = _kernels[path]
    milliseconds = max(1, round(block_s * 1e3 / 5))
    evaluator = module.time_evaluator(
        symbol, tvm.cpu(), number=1, repeat=5, min_repeat_ms=milliseconds
    )
    return sorted(float(second) for second in evaluator(*arguments).results)[2]


def _recent(yardstick: ProgramSpec | list[KernelSpec]) -> float:
    """The yardstick's seconds a moment ago, when the visit before this one ended, or now."""
    if _last and _last[0] == yardstick and time.monotonic() - _last[1] < RECENT_S:
        return float(_last[2])
    return _calibrate(yardstick)


def _calibrate(yardstick: ProgramSpec | list[KernelSpec]) -> float:
    """Seconds of the calibration kernels, added up, or the median of some calls of a program."""
    if isinstance(yardstick, list):
        seconds = sum(_kernel_time(kernel, CALIBRATION_S) for kernel in yardstick)
    else:
        import tvm

        evaluate = _program(*yardstick).time_evaluator
        calls = evaluate("invoke_stateful", tvm.cpu(), number=1, repeat=YARDSTICK_CALLS)("main")
        seconds = sorted(float(call) for call in calls.results)[YARDSTICK_CALLS // 2]
    _last[:] = [yardstick, time.monotonic(), seconds]
    return seconds
