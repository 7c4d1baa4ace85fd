"""What runs inside a device's child process: load programs and kernels, time them."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from typing import Any

from ofatvm.device.children import set_threads
from ofatvm.device.loaded import Loaded, load_program
from ofatvm.device.reference import undisturbed

MAX_LOADED = 24
CALIBRATION_S = 0.005
REFERENCE_ROUNDS = 60
REFERENCE_S = 20.0
# A program, or a kernel's own program, as a child process gets it: its file, and how many numbers
# input, weights, workspace and output have.
Spec = tuple[str, tuple[int, ...]]
YARDSTICK_CALLS = 15
RECENT_S = 0.08
_loaded: OrderedDict[str, Loaded] = OrderedDict()
_last: list[Any] = []


def initialise(threads: int) -> None:
    """Fix the thread count and the cores before TVM starts its thread pool."""
    set_threads(threads)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def visit_program(
    program: Spec,
    yardstick: Spec | list[Spec],
    warmup_ms: float,
    block_ms: float,
) -> tuple[list[float], tuple[float, float]]:
    """Calls' seconds for one block, and the yardstick's seconds before and after it."""
    loaded = _program(*program)
    estimate = max(min(loaded.samples(3)), 1e-6)
    loaded.samples(max(1, int(warmup_ms / 1e3 / estimate)))
    before = _recent(yardstick)
    calls = loaded.samples(max(5, min(2000, int(block_ms / 1e3 / estimate))))
    return calls, (before, _calibrate(yardstick))


def time_kernels(
    kernels: list[Spec],
    calibration: list[Spec],
    block_ms: float,
) -> tuple[list[float], float]:
    """Median seconds a call of each kernel alone, and the calibration kernels' seconds."""
    before = _calibrate(calibration)
    times = [_kernel_time(kernel, block_ms / 1e3) for kernel in kernels]
    return times, (before + _calibrate(calibration)) / 2


def reference_time(yardstick: Spec | list[Spec]) -> float:
    """The yardstick's seconds on an undisturbed machine: nearly the least of many.

    On a slow machine of not quite so many, so that it does not take minutes.
    """
    until = time.monotonic() + REFERENCE_S
    found = [_calibrate(yardstick)]
    while len(found) < REFERENCE_ROUNDS and time.monotonic() < until:
        found.append(_calibrate(yardstick))
    return undisturbed(found)


def _program(path: str, sizes: tuple[int, ...]) -> Loaded:
    """The loaded program; the least recently used ones are given up."""
    if path in _loaded:
        _loaded.move_to_end(path)
        return _loaded[path]
    _loaded[path] = load_program(path, sizes)
    while len(_loaded) > MAX_LOADED:
        _loaded.popitem(last=False)
    return _loaded[path]


def _kernel_time(kernel: Spec, block_s: float) -> float:
    """Median seconds of a kernel's calls, repeated by the threads without parting in between."""
    return sorted(_program(*kernel).blocks(5, block_s / 5))[2]


def _recent(yardstick: Spec | list[Spec]) -> float:
    """The yardstick's seconds a moment ago, when the visit before this one ended, or now."""
    if _last and _last[0] == yardstick and time.monotonic() - _last[1] < RECENT_S:
        return float(_last[2])
    return _calibrate(yardstick)


def _calibrate(yardstick: Spec | list[Spec]) -> float:
    """Seconds of the calibration kernels, added up, or the median of some calls of a program."""
    if isinstance(yardstick, list):
        seconds = sum(_kernel_time(kernel, CALIBRATION_S) for kernel in yardstick)
    else:
        seconds = sorted(_program(*yardstick).samples(YARDSTICK_CALLS))[YARDSTICK_CALLS // 2]
    _last[:] = [yardstick, time.monotonic(), seconds]
    return seconds
