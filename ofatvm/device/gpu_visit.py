"""What runs in a session's process on this side: programs and kernels on the board's GPU, timed.

The counterpart of `ofatvm.device.visit` for networks that TVM's virtual machine runs.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from ofatvm.compiler.gpu_measure import (
    WARM_UP_CALLS,
    GpuKernel,
    GpuNetwork,
    load_gpu,
    load_gpu_kernel,
)
from ofatvm.device.rpc_child import remote_session

# A program's file, the shapes that its `main` takes, and TVM's kind of the device.
GpuSpec = tuple[str, tuple[tuple[int, ...], ...], str]
MAX_LOADED = 6
YARDSTICK_CALLS = 15
REFERENCE_ROUNDS = 10
LEAST_CALLS, MOST_CALLS = 5, 2000
KERNEL_CALLS = 20
WARM_UP_S = 0.05
_loaded: OrderedDict[GpuSpec, GpuNetwork] = OrderedDict()
_reference: dict[GpuSpec, GpuKernel] = {}


def visit_gpu(
    program: GpuSpec, yardstick: GpuSpec, warmup_ms: float, block_ms: float
) -> tuple[list[float], tuple[float, float]]:
    """Calls' seconds for one block, and the yardstick's seconds before and after it."""
    network = _network(program)
    estimate_ms = max(min(network.samples_ms(WARM_UP_CALLS)), 1e-3)
    network.samples_ms(max(1, int(warmup_ms / estimate_ms)))
    before = yardstick_s(yardstick)
    count = max(LEAST_CALLS, min(MOST_CALLS, int(block_ms / estimate_ms)))
    calls = [ms / 1e3 for ms in network.samples_ms(count)]
    return calls, (before, yardstick_s(yardstick))


def yardstick_s(yardstick: GpuSpec) -> float:
    """Median seconds of some calls."""
    return sorted(_network(yardstick).samples_ms(YARDSTICK_CALLS))[YARDSTICK_CALLS // 2] / 1e3


def reference_time(yardstick: GpuSpec) -> float:
    """The yardstick's seconds on an undisturbed board: the least of some medians."""
    yardstick_s(yardstick)  # a GPU takes some time to reach its full clock
    return min(yardstick_s(yardstick) for _ in range(REFERENCE_ROUNDS))


def time_gpu_kernel(
    kernel: GpuSpec, reference: GpuSpec, repeats: int, sample_s: float, cutoff_s: float
) -> tuple[list[float], float]:
    """Seconds a call of a kernel, and the slower of the reference's before and after it.

    `repeats` samples of at least `sample_s`; one, of one call, if that is slower than `cutoff_s`.
    """
    path, shapes, kind = kernel
    candidate = load_gpu_kernel(remote_session(), Path(path), shapes, kind=kind)
    first = min(candidate.samples_s(WARM_UP_CALLS))
    # A GPU takes some time to reach its full clock: the reference must not be timed before that.
    candidate.samples_s(1, calls=max(1, min(MOST_CALLS, int(WARM_UP_S / max(first, 1e-7)))))
    before = kernel_reference_s(reference)
    if first > cutoff_s:
        return [first], before
    calls = max(1, min(MOST_CALLS, int(sample_s / max(first, 1e-7))))
    samples = candidate.samples_s(repeats, calls=calls)
    return samples, max(before, kernel_reference_s(reference))


def kernel_reference_s(reference: GpuSpec) -> float:
    """Median seconds of some calls of a kernel that stays loaded."""
    if reference not in _reference:
        path, shapes, kind = reference
        _reference[reference] = load_gpu_kernel(remote_session(), Path(path), shapes, kind=kind)
        _reference[reference].samples_s(WARM_UP_CALLS)
    known = _reference[reference]
    return sorted(known.samples_s(WARM_UP_CALLS, calls=KERNEL_CALLS))[WARM_UP_CALLS // 2]


def _network(spec: GpuSpec) -> GpuNetwork:
    """The loaded program; the least recently used ones are given up."""
    if spec not in _loaded:
        path, shapes, kind = spec
        _loaded[spec] = load_gpu(remote_session(), Path(path), shapes, kind=kind)
        while len(_loaded) > MAX_LOADED:
            _loaded.popitem(last=False)
    _loaded.move_to_end(spec)
    return _loaded[spec]
