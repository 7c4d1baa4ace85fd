"""Where the tensors between kernels live: one workspace, planned ahead by the tensors' lives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ofatvm.compiler.plan import KernelCall

ALIGNMENT = 64
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Byte offset of every tensor in the workspace, and the workspace's size in bytes."""

    offsets: dict[str, int]
    size_bytes: int


def plan_workspace(calls: Sequence[KernelCall]) -> MemoryPlan:
    """Place the output of every call but the last; tensors that live together never overlap.

    A tensor lives from the call that makes it to the last that reads it. The largest are placed
    first, each at the lowest offset that is free for all its life (greedy by size, as in Pisarchyk
    and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020).
    """
    born = {call.output: index for index, call in enumerate(calls[:-1])}
    dies = dict(born)
    for index, call in enumerate(calls):
        for name in call.inputs:
            if name in born:
                dies[name] = index
    sizes = {
        call.output: aligned(FLOAT_BYTES * math.prod(call.workload.out_shape)) for call in calls
    }
    offsets: dict[str, int] = {}
    for name in sorted(born, key=lambda tensor: (-sizes[tensor], born[tensor])):
        taken = sorted(
            (offsets[other], offsets[other] + sizes[other])
            for other in offsets
            if born[other] <= dies[name] and born[name] <= dies[other]
        )
        place = 0
        for start, end in taken:
            if start - place >= sizes[name]:
                break
            place = max(place, end)
        offsets[name] = place
    return MemoryPlan(offsets, max((offsets[n] + sizes[n] for n in offsets), default=0))


def aligned(size_bytes: int) -> int:
    """The next multiple of the alignment of all tensors."""
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT
