"""What runs in a session's process on this side: programs on the board's GPU, timed.

The counterpart of `ofatvm.device.visit` for networks that TVM's virtual machine runs.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from ofatvm.compiler.gpu_measure import WARM_UP_CALLS, GpuNetwork, load_gpu
from ofatvm.device.rpc_child import remote_session

# A program's file, the shapes that its `main` takes, and TVM's kind of the device.
GpuSpec = tuple[str, tuple[tuple[int, ...], ...], str]
MAX_LOADED = 6
YARDSTICK_CALLS = 15
REFERENCE_ROUNDS = 10
LEAST_CALLS, MOST_CALLS = 5, 2000
_loaded: OrderedDict[GpuSpec, GpuNetwork] = OrderedDict()


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


def reference_s(yardstick: GpuSpec) -> float:
    """The yardstick's seconds on an undisturbed board: the least of some medians."""
    yardstick_s(yardstick)  # a GPU takes some time to reach its full clock
    return min(yardstick_s(yardstick) for _ in range(REFERENCE_ROUNDS))


def _network(spec: GpuSpec) -> GpuNetwork:
    """The loaded program; the least recently used ones are given up."""
    if spec not in _loaded:
        path, shapes, kind = spec
        _loaded[spec] = load_gpu(remote_session(), Path(path), shapes, kind=kind)
        while len(_loaded) > MAX_LOADED:
            _loaded.popitem(last=False)
    _loaded.move_to_end(spec)
    return _loaded[spec]
