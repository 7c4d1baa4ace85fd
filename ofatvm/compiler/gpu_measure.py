"""Timing a network's program, or one kernel, on a board, through an RPC session of TVM."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAIN = "main"
KERNEL = "kernel"
"""The function of a library that holds one kernel."""
WARM_UP_CALLS = 3
# TVM's names for the CPU and for an allocator; a device's kind is above its session's number.
CPU, POOLED, SESSION_MASK = 1, 2, 128
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class GpuNetwork:
    """A program on a board's GPU, with its input and weights in place."""

    machine: Any
    device: Any

    def samples_ms(self, count: int, *, calls: int = 1) -> list[float]:
        """Milliseconds of one call, `count` times the mean of `calls` calls in a row."""
        evaluate = self.machine.time_evaluator(
            "invoke_stateful", self.device, number=calls, repeat=count
        )
        return [1000.0 * seconds for seconds in evaluate(MAIN).results]


@dataclass(frozen=True, slots=True)
class GpuKernel:
    """A kernel on a board's GPU, with room for its arguments."""

    module: Any
    device: Any
    tensors: tuple[Any, ...]

    def samples_s(self, count: int, *, calls: int = 1) -> list[float]:
        """Seconds of one call, `count` times the mean of `calls` calls in a row."""
        evaluate = self.module.time_evaluator(KERNEL, self.device, number=calls, repeat=count)
        return [float(seconds) for seconds in evaluate(*self.tensors).results]


def load_gpu_kernel(
    session: Any, path: Path, shapes: Sequence[tuple[int, ...]], *, kind: str = "cuda"
) -> GpuKernel:
    """Send what `build_gpu_kernel` linked to a board and load it there; see `load_gpu`."""
    import tvm

    device = _device(session, kind)
    module = _loaded(session, path)
    tensors = tuple(tvm.runtime.empty(shape, "float32", device=device) for shape in shapes)
    return GpuKernel(module, device, tensors)


def load_gpu(
    session: Any,
    path: Path,
    shapes: Sequence[tuple[int, ...]],
    *,
    kind: str = "cuda",
    seed: int = 0,
) -> GpuNetwork:
    """Send a program to a board and load it there; whatever TVM raises is raised.

    `session` is TVM's RPC session, or `tvm.rpc.LocalSession()`; `path` and `shapes` are those of a
    `GpuProgram`. The input is drawn from the seed. The weights are whatever the board's memory
    holds: no schedule's time depends on them, and none are sent.
    """
    import tvm

    device = _device(session, kind)
    # What relax.VirtualMachine does, which needs more of TVM than a session's process loads.
    machine = _loaded(session, path)["vm_load_executable"]()
    kinds = dict.fromkeys((int(device.dlpack_device_type()) % SESSION_MASK, CPU))
    machine["vm_initialization"](*(number for each in kinds for number in (each, 0, POOLED)))
    image = np.random.default_rng(seed).standard_normal(shapes[0], dtype=np.float32)
    tensors = [tvm.runtime.tensor(image, device=device)]
    tensors += [tvm.runtime.empty(shape, "float32", device=device) for shape in shapes[1:]]
    machine["set_input"](MAIN, *tensors)
    return GpuNetwork(machine, device)


def _device(session: Any, kind: str) -> Any:
    device = session.device(kind, 0)
    if not device.exist:
        raise RuntimeError(f"the board has no {kind} device, or its TVM has no runtime for it")
    return device


def _loaded(session: Any, path: Path) -> Any:
    """A library as the board has it."""
    name = f"{next(_numbers)}-{path.name}"
    session.upload(bytearray(path.read_bytes()), name)
    try:
        return session.load_module(name)
    finally:
        session.remove(name)  # the board may have little room, and what is loaded stays loaded
