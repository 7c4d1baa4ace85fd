"""The schedules worth trying for a workload, and what a cost model sees of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ofatvm.compiler.plan import Workload
from ofatvm.compiler.schedule import CHANNELS_OUTER, PANEL, PIXELS_OUTER, ScheduleConfig

PAD_BUFFER_BYTES = 256 * 1024
# Below this, one thread may be faster than meeting at a barrier.
SMALL_KERNEL_WORK = 200_000


@dataclass(frozen=True, slots=True)
class VectorUnit:
    """What a CPU computes with: float32 lanes of a vector, vector registers, and worker threads."""

    lanes: int
    registers: int
    threads: int


def schedule_space(workload: Workload, unit: VectorUnit) -> list[ScheduleConfig]:
    """All points for a workload, in a fixed order; never empty."""
    space = set(_SPACES[workload.kind](workload, unit, 4))
    # Few pixels, or a map whose sides are prime, may leave no tile of four registers.
    return sorted(space or set(_SPACES[workload.kind](workload, unit, 1)))


def default_config(workload: Workload, unit: VectorUnit) -> ScheduleConfig:
    """The point used where nothing is known: the fullest register tile that still balances threads.

    It is also the first trial of every workload, so that no shipped kernel is slower than it.
    """
    space = schedule_space(workload, unit)
    columns = {name: index for index, name in enumerate(FEATURES)}
    values = features(workload, space, unit)
    score = (
        values[:, columns["loads_per_fma"]]
        + 2.0 * values[:, columns["spilled"]]
        + 2.0 * np.maximum(0.0, 8.0 - values[:, columns["accumulators"]]) / 8.0
        + values[:, columns["imbalance"]]
        + 0.05 * values[:, columns["log_weight_tile"]]
        + 0.01 * values[:, columns["unroll"]]
        + 0.5 * values[:, columns["recompute"]]
        + values[:, columns["idle_lanes"]]
        + 0.5 * values[:, columns["scaled"]] * (values[:, columns["panel"]] == 0)
    )
    if work(workload) >= SMALL_KERNEL_WORK:
        score += 10.0 * (values[:, columns["parallel"]] == 0)
    return space[int(np.argmin(score))]


def _divisors(number: int, limit: int) -> list[int]:
    return [d for d in range(1, min(number, limit) + 1) if number % d == 0]


def _channel_tiles(
    channels: int, unit: VectorUnit, limit: int, *, fill: bool = False
) -> Iterator[tuple[int, int, int]]:
    """(groups, lanes, registers per pixel) with a power-of-two number of lanes.

    With `fill`, channels that do not fill vectors may also be one tile of vectors filled up with
    zeros; that is for kernels whose input has other channels.
    """
    for lanes in (unit.lanes // 2, unit.lanes, 2 * unit.lanes, 4 * unit.lanes):
        if lanes < 1 or channels % lanes or (lanes < unit.lanes and channels % unit.lanes == 0):
            continue
        for groups in _divisors(channels // lanes, limit):
            registers = groups * max(1, lanes // unit.lanes)
            if registers <= limit:
                yield groups, lanes, registers
    vectors = -(-channels // unit.lanes)
    if fill and channels % unit.lanes and channels > unit.lanes and vectors <= limit:
        yield vectors, unit.lanes, vectors
    if channels % max(1, unit.lanes // 2):
        yield from ((groups, 1, groups) for groups in _divisors(channels, limit))


def _pixel_tiles(height: int, width: int, limit: int) -> Iterator[tuple[int, int]]:
    for rows in _divisors(height, 8):
        for columns in _divisors(width, 28):
            if rows * columns <= limit:
                yield rows, columns


def _fits(pixels: int, registers: int, unit: VectorUnit) -> bool:
    """Accumulators stay in registers, and there are enough of them where the shape allows."""
    return pixels * registers <= unit.registers - 2


def _pointwise(workload: Workload, unit: VectorUnit, least: int) -> Iterator[ScheduleConfig]:
    height, width, channels = workload.out_shape
    minimum = min(least, height * width)
    orders = (PIXELS_OUTER, CHANNELS_OUTER, PANEL)
    for rows, columns in _pixel_tiles(height, width, unit.registers):
        for groups, lanes, registers in _channel_tiles(channels, unit, 8, fill=True):
            tile = rows * columns * registers
            if not _fits(rows * columns, registers, unit) or tile < minimum:
                continue
            for unroll in (u for u in (1, 2, 4) if workload.in_shape[-1] % u == 0):
                for order in orders:
                    yield ScheduleConfig(rows, columns, groups, lanes, unroll, order=order)


def _spatial(workload: Workload, unit: VectorUnit, least: int) -> Iterator[ScheduleConfig]:
    height, width, channels = workload.out_shape
    wide = workload.stride * (width - 1) + workload.kernel
    unrolls = (1,) if workload.kind == "conv" else (1, workload.kernel)
    fill = workload.kind == "conv"
    for groups, lanes, registers in _channel_tiles(channels, unit, 8, fill=fill):
        deep = workload.in_shape[-1] if workload.kind == "conv" else groups * lanes
        for rows, columns in _pixel_tiles(height, width, unit.registers):
            tile = rows * columns * registers
            if not _fits(rows * columns, registers, unit) or tile < least:
                continue
            for block_rows in _divisors(height, height):
                high = workload.stride * (block_rows - 1) + workload.kernel
                large = 4 * high * wide * deep > PAD_BUFFER_BYTES and least + block_rows > 2
                if block_rows % rows or large:
                    continue
                for unroll in unrolls:
                    if unroll > 1 and tile * unroll**2 > 700:
                        continue
                    for order in (PIXELS_OUTER, CHANNELS_OUTER):
                        yield ScheduleConfig(
                            rows, columns, groups, lanes, unroll, block_rows, order
                        )


def _dense(workload: Workload, unit: VectorUnit, least: int) -> Iterator[ScheduleConfig]:
    for groups, lanes, registers in _channel_tiles(workload.out_shape[-1], unit, 16, fill=True):
        if registers > unit.registers - 2:
            continue
        for unroll in (u for u in (1, 2, 4, 8) if workload.in_shape[-1] % u == 0):
            for parallel in (1, 0) if work(workload) < SMALL_KERNEL_WORK else (1,):
                yield ScheduleConfig(1, 1, groups, lanes, unroll, parallel=parallel)


def _mean(workload: Workload, unit: VectorUnit, least: int) -> Iterator[ScheduleConfig]:
    width = workload.in_shape[1]
    for groups, lanes, registers in _channel_tiles(workload.out_shape[-1], unit, 8):
        if registers > unit.registers - 2:
            continue
        for unroll in _divisors(width, 14):
            for parallel in (1, 0) if work(workload) < SMALL_KERNEL_WORK else (1,):
                yield ScheduleConfig(1, 1, groups, lanes, unroll, parallel=parallel)


_SPACES = {
    "conv": _spatial,
    "depthwise": _spatial,
    "pointwise": _pointwise,
    "dense": _dense,
    "mean": _mean,
}

FEATURES = (
    *("conv", "depthwise", "pointwise", "dense", "mean"),
    *("height", "width", "log_in", "log_out", "kernel", "stride", "scaled", "residual"),
    *("rows", "columns", "groups", "lanes", "unroll", "block_rows"),
    *("pixels_outer", "channels_outer", "panel", "parallel"),
    *("pixels", "registers", "accumulators", "spilled", "loads_per_fma", "log_chunks"),
    *("imbalance", "log_weight_tile", "log_input_tile", "recompute", "body", "log_work"),
    "idle_lanes",
)


def work(workload: Workload) -> float:
    """MACs, or the input's elements where there are none: what a kernel's time is divided by."""
    return float(workload.macs or math.prod(workload.in_shape))


def features(workload: Workload, configs: Sequence[ScheduleConfig], unit: VectorUnit) -> np.ndarray:
    """(len(configs), len(FEATURES)) float32."""
    spatial = len(workload.out_shape) == 3
    height, width = workload.out_shape[:2] if spatial else workload.in_shape[:1] * 2
    channels_in, channels = workload.in_shape[-1], workload.out_shape[-1]
    c = np.array(
        [
            (p.rows, p.columns, p.groups, p.lanes, p.unroll, p.block_rows, p.order, p.parallel)
            for p in configs
        ],
        dtype=np.float64,
    )
    rows, columns, groups, lanes, unroll, block_rows, order, parallel = c.T
    pixels, tile = rows * columns, groups * lanes
    registers = groups * np.ceil(lanes / unit.lanes)
    accumulators = pixels * registers
    in_block = workload.kind in ("conv", "depthwise")
    tall = block_rows if in_block else rows
    tiles = np.ceil(channels / tile)
    chunks = tiles * (np.ceil(height / tall) if spatial else 1)
    if not in_block and spatial:
        chunks = np.where(order == PANEL, 1, tiles) * height * width / pixels
    chunks = np.where(parallel == 1, chunks, 1.0)
    imbalance = np.ceil(chunks / unit.threads) * unit.threads / chunks
    depth = float(workload.macs / max(1, height * width * channels)) if workload.macs else 1.0
    high = workload.stride * (block_rows - 1) + workload.kernel
    recompute = high / (workload.stride * block_rows) if in_block else np.ones(len(c))
    constant: list[float] = [workload.kind == kind for kind in FEATURES[:5]]
    constant += [height, width, math.log(channels_in), math.log(channels), workload.kernel]
    constant += [workload.stride, workload.scaled, workload.residual]
    columns_out = [
        *(np.full(len(c), float(value)) for value in constant),
        *(rows, columns, groups, lanes, unroll, block_rows),
        *(order == value for value in (PIXELS_OUTER, CHANNELS_OUTER, PANEL)),
        parallel,
        pixels,
        registers,
        accumulators,
        np.maximum(0.0, accumulators + registers + 1 - unit.registers),
        (pixels + registers) / accumulators,
        np.log(chunks),
        imbalance,
        np.log(depth * tile),
        np.log(pixels * channels_in),
        recompute,
        np.log(accumulators * unroll),
        np.full(len(c), math.log(work(workload))),
        tiles * registers * unit.lanes / channels - 1.0,
    ]
    return np.stack([np.asarray(column, dtype=np.float32) for column in columns_out], axis=1)
