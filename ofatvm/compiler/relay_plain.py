"""Programs of Relay's kernels for devices that link for themselves: the simulated one.

There the kernels are plain functions that ofatvm's own program calls in order, on its own threads;
the graph executor, which runs them on a real machine, is not simulated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ofatvm.compiler.memory import FLOAT_BYTES, aligned, plan_workspace
from ofatvm.compiler.plan import KernelCall, Workload
from ofatvm.compiler.program import Base, Step
from ofatvm.errors import CompileError
from ofatvm.files import replace_file
from ofatvm.relay.blocks import Blocking, argument_shapes
from ofatvm.relay.objects import Phase, PlainKernel

PLAIN = ".plain.json"
Place = tuple[Base, int]


def write_plain(path: Path, kernel: PlainKernel) -> None:
    """Keep what a kernel consists of."""
    replace_file(path, json.dumps(asdict(kernel)).encode())


def read_plain(path: Path) -> PlainKernel:
    """What a kernel consists of; CompileError if the file is damaged."""
    try:
        value = json.loads(path.read_bytes())
        phases = (Phase(p["symbol"], p["parallel"], tuple(p["arguments"])) for p in value["phases"])
        return PlainKernel(tuple(phases), tuple(value["buffers"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise CompileError(
            f"{path} is damaged", hint="delete it, and the same command continues"
        ) from None


def argument_places(workload: Workload, blocking: Blocking) -> tuple[list[Place], dict[Base, int]]:
    """Where a kernel alone finds its arguments, and how many bytes of each base they take."""
    places: list[Place] = [("x", 0)]
    ends: dict[Base, int] = {"weights": 0, "workspace": 0}
    for number, shape in enumerate(argument_shapes(workload, blocking)[1:], 1):
        base: Base = "weights" if number <= _held(workload) else "workspace"
        places.append((base, ends[base]))
        ends[base] += aligned(FLOAT_BYTES * math.prod(shape))
    return places, ends


def kernel_steps(
    workload: Workload, kernel: PlainKernel, blocking: Blocking
) -> tuple[tuple[Step, ...], tuple[int, ...]]:
    """The calls of a kernel alone, and how many numbers its four tensors have."""
    places, ends = argument_places(workload, blocking)
    buffers, end = _buffers(kernel, ends["workspace"])
    sizes = (
        math.prod(workload.in_shape),
        ends["weights"] // FLOAT_BYTES,
        end // FLOAT_BYTES,
        math.prod(workload.out_shape),
    )
    return _steps(kernel, [*places, ("out", 0), *buffers]), sizes


def network_steps(
    calls: Sequence[KernelCall], kernels: Mapping[Workload, PlainKernel], blocking: Blocking
) -> tuple[tuple[Step, ...], tuple[int, ...]]:
    """The calls of a network, and how many numbers input, weights, workspace and output have."""
    workspace = plan_workspace(calls)
    tensors: dict[str, Place] = {calls[0].inputs[0]: ("x", 0), calls[-1].output: ("out", 0)}
    tensors |= {name: ("workspace", offset) for name, offset in workspace.offsets.items()}
    steps: list[Step] = []
    end, weights = aligned(workspace.size_bytes), 0
    for call in calls:
        shapes = argument_shapes(call.workload, blocking)
        held: list[Place] = []
        for shape in shapes[1 : 1 + _held(call.workload)]:
            held.append(("weights", weights))
            weights += aligned(FLOAT_BYTES * math.prod(shape))
        first, *others = (tensors[name] for name in call.inputs)
        kernel = kernels[call.workload]
        buffers, last = _buffers(kernel, aligned(workspace.size_bytes))
        end = max(end, last)
        steps += _steps(kernel, [first, *held, *others, tensors[call.output], *buffers])
    sizes = (
        math.prod(calls[0].workload.in_shape),
        weights // FLOAT_BYTES,
        end // FLOAT_BYTES,
        math.prod(calls[-1].workload.out_shape),
    )
    return tuple(steps), sizes


def _held(workload: Workload) -> int:
    """How many of a kernel's arguments are weights."""
    return int(workload.is_compute) + int(workload.is_compute and workload.bias)


def _buffers(kernel: PlainKernel, start: int) -> tuple[list[Place], int]:
    """Places in the workspace for what phases hand to each other, and the end of the last."""
    places: list[Place] = []
    for size in kernel.buffers:
        places.append(("workspace", start))
        start += aligned(FLOAT_BYTES * size)
    return places, start


def _steps(kernel: PlainKernel, places: Sequence[Place]) -> tuple[Step, ...]:
    return tuple(
        Step(phase.symbol, phase.parallel, tuple(places[place] for place in phase.arguments))
        for phase in kernel.phases
    )
