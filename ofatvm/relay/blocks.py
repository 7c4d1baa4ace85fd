"""The NCHWc layouts of the Relay road: which channels lie together, and weights packed so.

Every tensor with c channels is cut into blocks of `block(c)`, whoever makes or reads it, so that no
two kernels disagree and nothing is ever transposed between them. NCHW with one block of all
channels is NHWC in memory, so that networks take their input as on the Relax road.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ofatvm.compiler.plan import Workload

Config = str
"""One point of a template's space, as AutoTVM's JSON list of entities; "" for the default."""
LEAST = 4
"""Lanes of the shortest vector that there is on every target, of 128 bits."""


@dataclass(frozen=True, slots=True)
class Blocking:
    """How channels are cut: into multiples of the vector's `lanes`, `most` lanes at most."""

    lanes: int
    most: int

    def block(self, channels: int) -> int:
        """The largest divisor of whole vectors within the limit, or else of shorter, or of any."""
        divisors = [size for size in range(1, self.most + 1) if channels % size == 0]
        vectors = {size: math.gcd(size, self.lanes) for size in divisors}
        return max(divisors, key=lambda size: (vectors[size] >= LEAST and vectors[size], size))

    def tensor(self, shape: Sequence[int]) -> tuple[int, ...]:
        """(height, width, channels) or (channels,) as (1, blocks, height, width, block)."""
        *pixels, channels = shape
        height, width = pixels or (1, 1)
        block = self.block(channels)
        return (1, channels // block, height, width, block)


def weight_shape(workload: Workload, blocking: Blocking) -> tuple[int, ...] | None:
    """The packed weight's shape, OIHWio in blocks; None if the workload has no weight."""
    if not workload.is_compute:
        return None
    _, out_blocks, _, _, out_block = blocking.tensor(workload.out_shape)
    if workload.kind == "depthwise":
        return (out_blocks, 1, workload.kernel, workload.kernel, 1, out_block)
    _, in_blocks, _, _, in_block = blocking.tensor(workload.in_shape)
    return (out_blocks, in_blocks, workload.kernel, workload.kernel, in_block, out_block)


def bias_shape(workload: Workload, blocking: Blocking) -> tuple[int, ...]:
    """The packed bias's shape."""
    _, blocks, _, _, block = blocking.tensor(workload.out_shape)
    return (1, blocks, 1, 1, block)


def argument_shapes(workload: Workload, blocking: Blocking) -> tuple[tuple[int, ...], ...]:
    """Shapes of a kernel's arguments: input, weight, bias, scale, residual."""
    shapes = [blocking.tensor(workload.in_shape)]
    weight = weight_shape(workload, blocking)
    if weight is not None:
        shapes.append(weight)
        if workload.bias:
            shapes.append(bias_shape(workload, blocking))
    if workload.scaled:
        _, blocks, _, _, block = blocking.tensor(workload.in_shape)
        shapes.append((1, blocks, 1, 1, block))
    if workload.residual:
        shapes.append(blocking.tensor(workload.out_shape))
    return tuple(shapes)


def pack_weight(weight: np.ndarray, workload: Workload, blocking: Blocking) -> np.ndarray:
    """A weight in the packed layout; it comes in the order of `Operator.weight_shape`."""
    shape = weight_shape(workload, blocking)
    assert shape is not None
    size = workload.kernel
    if workload.kind == "depthwise":
        flat = weight.reshape(size, size, 1, 1, shape[0], shape[5])
    else:
        flat = weight.reshape(size, size, shape[1], shape[4], shape[0], shape[5])
    return np.ascontiguousarray(flat.transpose(4, 2, 0, 1, 3, 5), dtype=np.float32)
