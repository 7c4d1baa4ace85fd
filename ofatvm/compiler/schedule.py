"""Our schedule space: register-tiled, vectorised, parallel kernels, described by a few numbers.

A `ScheduleConfig` is one point; `scheduled` turns a workload and a point into a TVM schedule whose
trace is a MetaSchedule tuning record like any other. The space is small (tens to a few thousand
points a workload) because it holds only the shapes that keep accumulators in registers; see
`docs/decisions.md` for the measurements behind it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ofatvm.compiler.plan import Workload
from ofatvm.compiler.primfunc import workload_module

if TYPE_CHECKING:
    from tvm import IRModule
    from tvm.s_tir import Schedule

PIXELS_OUTER, CHANNELS_OUTER, PANEL = 0, 1, 2


@dataclass(frozen=True, slots=True, order=True)
class ScheduleConfig:
    """One point of the schedule space.

    A kernel computes tiles of `rows` x `columns` pixels x (`groups` * `lanes`) channels in
    registers; `unroll` steps of the innermost reduction are written out. `block_rows` rows of
    output share one padded copy of the input (conv, depthwise). `order`: which outer loop runs
    slowest, or PANEL: each pixel tile keeps its scaled input and runs over all channels. `parallel`
    0 leaves the kernel on one thread.
    """

    rows: int
    columns: int
    groups: int
    lanes: int
    unroll: int = 1
    block_rows: int = 1
    order: int = PIXELS_OUTER
    parallel: int = 1

    @property
    def channels(self) -> int:
        """Channels of a tile: also the inner extent of the packed weight."""
        return self.groups * self.lanes


def packed_shape(workload: Workload, config: ScheduleConfig) -> tuple[int, ...] | None:
    """Shape of the packed weight: (channel tiles, *all but channels, channels of a tile).

    A tile with more channels than the workload is filled up with zeros.
    """
    shape = workload.weight_shape
    if shape is None:
        return None
    return (-(-shape[-1] // config.channels), *shape[:-1], config.channels)


def kernel_shapes(workload: Workload, config: ScheduleConfig) -> list[tuple[int, ...]]:
    """Argument shapes of a scheduled kernel: the workload's, with the weight packed."""
    shapes = list(workload.argument_shapes)
    packed = packed_shape(workload, config)
    if packed is not None:
        shapes[1] = packed
    return shapes


def scheduled_module(workload: Workload, config: ScheduleConfig) -> IRModule:
    """What a point schedules: the workload's module, with the channels that its tile fills up."""
    return workload_module(workload, max(config.channels, workload.out_shape[-1]))


def scheduled(workload: Workload, config: ScheduleConfig) -> Schedule:
    """The workload's schedule for a point; its weight argument has `packed_shape`."""
    from tvm import s_tir

    schedule = s_tir.Schedule(scheduled_module(workload, config))
    body = _SCHEDULES[workload.kind]
    body(schedule, workload, config)
    return schedule


def _pack_weight(sch: Any, block: Any, config: ScheduleConfig) -> None:
    channels = config.channels

    def index_map(*index: Any) -> list[Any]:
        return [index[-1] // channels, *index[:-1], index[-1] % channels]

    sch.transform_layout(block, ("read", 1), index_map)


def _channel_tiles(sch: Any, loop: Any, config: ScheduleConfig) -> tuple[Any, Any, Any]:
    outer, groups, lanes = sch.split(loop, [None, config.groups, config.lanes])
    return outer, groups, lanes


def _outer(sch: Any, loops: list[Any], config: ScheduleConfig) -> Any:
    fused = sch.fuse(*loops) if len(loops) > 1 else loops[0]
    if config.parallel:
        sch.parallel(fused)
    return fused


def _schedule_pointwise(sch: Any, workload: Workload, config: ScheduleConfig) -> None:
    block = sch.get_sblock("accumulate")
    _pack_weight(sch, block, config)
    if workload.scaled and config.order != PANEL:
        sch.compute_inline(sch.get_sblock("scaled"))
    h, w, c, r = sch.get_loops(block)
    h0, h1 = sch.split(h, [None, config.rows])
    w0, w1 = sch.split(w, [None, config.columns])
    c0, c1, c2 = _channel_tiles(sch, c, config)
    r0, r1 = sch.split(r, [None, config.unroll])
    outer = [c0, h0, w0] if config.order == CHANNELS_OUTER else [h0, w0, c0]
    sch.reorder(*outer, r0, r1, h1, w1, c1, c2)
    if config.order == PANEL:
        pixels = _outer(sch, outer[:2], config)
        if workload.scaled:
            scaled = sch.get_sblock("scaled")
            sch.compute_at(scaled, pixels)
            channels = sch.get_loops(scaled)[-1]
            _, lanes = sch.split(channels, [None, 8])
            sch.vectorize(lanes)
        at = c0
    else:
        at = _outer(sch, outer, config)
    sch.unroll(r1)
    _finish(sch, block, at, r0, [h1, w1, c1, c2], config)


def _finish(
    sch: Any, block: Any, at: Any, reduction: Any, tile: list[Any], config: ScheduleConfig
) -> None:
    """Unroll and vectorise a tile, its initialisation and its epilogue, computed at loop `at`."""
    out = sch.get_sblock("out")
    sch.reverse_compute_at(out, at)
    loops = sch.get_loops(out)
    shared = next(i for i, loop in enumerate(loops) if sch.get(loop).same_as(sch.get(at)))
    if loops[shared + 1 :]:  # a tile of one element has no loops of its own
        # Channels that fill up the last vectors are not stored.
        width = math.gcd(int(sch.get(loops[-1]).extent), config.lanes)
        _, lanes = sch.split(loops[-1], [None, width])
        for loop in sch.get_loops(out)[shared + 1 : -1]:
            sch.unroll(loop)
        sch.vectorize(lanes)
    for loop in tile[:-1]:
        sch.unroll(loop)
    sch.vectorize(tile[-1])
    sch.decompose_reduction(block, reduction)


def _schedule_spatial(sch: Any, workload: Workload, config: ScheduleConfig) -> None:
    """Conv and depthwise: `block_rows` rows share one padded copy of their input."""
    block = sch.get_sblock("accumulate")
    _pack_weight(sch, block, config)
    h, w, c, *reduction = sch.get_loops(block)
    hb, h0, h1 = sch.split(h, [None, config.block_rows // config.rows, config.rows])
    w0, w1 = sch.split(w, [None, config.columns])
    c0, c1, c2 = _channel_tiles(sch, c, config)
    outer = [c0, hb] if config.order == CHANNELS_OUTER else [hb, c0]
    sch.reorder(*outer, h0, w0, *reduction, h1, w1, c1, c2)
    blocks = _outer(sch, outer, config)
    if workload.kernel > 1:
        pad = sch.get_sblock("pad")
        sch.compute_at(pad, blocks)
        loops = sch.get_loops(pad)
        if workload.kind == "depthwise":
            _, lanes = sch.split(loops[-1], [None, config.lanes])
            sch.vectorize(lanes)
    for loop in reduction[1:]:
        sch.unroll(loop)
    if config.unroll > 1:
        sch.unroll(reduction[0])
    _finish(sch, block, w0, reduction[0], [h1, w1, c1, c2], config)


def _schedule_dense(sch: Any, workload: Workload, config: ScheduleConfig) -> None:
    block = sch.get_sblock("accumulate")
    _pack_weight(sch, block, config)
    c, r = sch.get_loops(block)
    c0, c1, c2 = _channel_tiles(sch, c, config)
    r0, r1 = sch.split(r, [None, config.unroll])
    sch.reorder(c0, r0, r1, c1, c2)
    at = _outer(sch, [c0], config)
    sch.unroll(r1)
    _finish(sch, block, at, r0, [c1, c2], config)


def _schedule_mean(sch: Any, workload: Workload, config: ScheduleConfig) -> None:
    block = sch.get_sblock("accumulate")
    c, rh, rw = sch.get_loops(block)
    c0, c1, c2 = _channel_tiles(sch, c, config)
    rw0, rw1 = sch.split(rw, [None, config.unroll])
    sch.reorder(c0, rh, rw0, rw1, c1, c2)
    at = _outer(sch, [c0], config)
    sch.unroll(rw1)
    _finish(sch, block, at, rh, [c1, c2], config)


_SCHEDULES = {
    "conv": _schedule_spatial,
    "depthwise": _schedule_spatial,
    "pointwise": _schedule_pointwise,
    "dense": _schedule_dense,
    "mean": _schedule_mean,
}
