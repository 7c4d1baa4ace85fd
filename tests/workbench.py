"""What tests of devices, pipeline and commands share: real kernels, and a machine that pretends."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from ofatvm.arch import ArchSpace
from ofatvm.compiler.kernels import Kernel, compile_kernels
from ofatvm.compiler.memory import ALIGNMENT
from ofatvm.compiler.plan import Workload, kernel_calls
from ofatvm.compiler.relax import Program, build_program
from ofatvm.compiler.space import VectorUnit
from ofatvm.device.base import Kind
from ofatvm.device.timing import Latency, Protocol, Visit, summarise
from ofatvm.pipeline.setup import Setup
from ofatvm.spaces import SPACES
from ofatvm.target import Target
from tests.targets import parse_target

SPACE = SPACES["ofa_mbv3_d234_e346_k357_w1.0"]
# Any x86 machine runs it, and no tuning records are there that could change under a test.
TARGET = parse_target("x86-64-v2").with_threads(1)
UNIT = VectorUnit(lanes=4, registers=16, threads=1)
QUICK = Protocol(processes=1, rounds=3, block_ms=4.0, warmup_ms=1.0, half_width=10.0)


class InlineExecutor(Executor):
    """Runs every job at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class PretendCompiler(InlineExecutor):
    """Leaves an empty library for every kernel; a program is the list of its calls' kernels."""

    def __init__(self) -> None:
        self.compiled = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if fn is compile_kernels:
            return super().submit(self.compile, *args)
        assert fn is build_program
        return super().submit(self.program, *args)

    def compile(self, kernels: Sequence[Kernel], target: Target) -> None:
        for kernel in kernels:
            kernel.path.write_bytes(empty_library())
            kernel.object_path.write_bytes(empty_object())
            self.compiled += 1

    def program(
        self, graph: nx.DiGraph[str], kernels: dict[Workload, Kernel], target: Target, path: Path
    ) -> Program:
        calls = kernel_calls(graph)
        return Program(path, tuple(kernels[call.workload] for call in calls), ())


class PretendDevice:
    """Latencies follow from the kernels called; a program without kernels crashes.

    The `dies_after`-th program measured ends the run, as kill would.
    """

    name = "pretend"
    kind: Kind = "simulated"

    def __init__(self, *, dies_after: int | None = None, unplugged: bool = False) -> None:
        self.measured = 0
        self.timed = 0
        self.dies_after = dies_after
        self.unplugged = unplugged

    def measure(
        self,
        programs: Sequence[Program],
        protocol: Protocol,
        *,
        seed: int,
        on_visit: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Latency | str]:
        from ofatvm.errors import DeviceError

        if self.unplugged:
            raise DeviceError("the pretended device is unplugged")
        result: list[Latency | str] = []
        for number, program in enumerate(programs, 1):
            if self.measured == self.dies_after:
                raise KeyboardInterrupt
            self.measured += 1
            on_visit(number, len(programs))
            if not program.kernels:
                result.append("the process running it died")
                continue
            seconds = 1e-3 * sum(kernel_ms(kernel) for kernel in program.kernels) + 1e-4
            visits = [Visit(0, (seconds,) * 5, (1.0, 1.0))] * protocol.rounds
            result.append(summarise(visits, 1.0))
        return result

    def time_kernels(self, kernels: Sequence[Kernel]) -> dict[str, float]:
        self.timed += len(kernels)
        return {kernel.digest: 0.9 * kernel_ms(kernel) for kernel in kernels}


def kernel_ms(kernel: Kernel) -> float:
    """A time for a kernel: by its MACs, depthwise ones slower for theirs."""
    slow = 8.0 if kernel.workload.kind == "depthwise" else 1.0
    return 0.002 + slow * kernel.workload.macs / 5e7


def pretend_setup(workspace: Path, space: ArchSpace | None = None) -> Setup:
    """A setup whose compiler pretends, at 224 unless the space says otherwise."""
    return Setup(
        target=Target(name="pretend-cpu", num_cores=2),
        unit=VectorUnit(lanes=8, registers=16, threads=2),
        space=space or SPACE.at(224),
        workspace=workspace,
        tuning_logs=workspace / "tuning_logs",
        executor=PretendCompiler(),
    )


def real_setup(workspace: Path, resolution: int = 128) -> Setup:
    """A setup that compiles in this process, for one thread of any x86 machine."""
    return Setup(
        target=TARGET,
        unit=UNIT,
        space=SPACE.at(resolution),
        workspace=workspace,
        tuning_logs=workspace / "tuning_logs",
        executor=InlineExecutor(),
    )


class LoadedKernel:
    """A kernel's C function, called on numpy arrays for one thread's share at a time.

    Around every argument lie numbers that are none: reading them shows in the result, and writing
    them is an AssertionError.
    """

    def __init__(self, library: Path, symbol: str) -> None:
        """`library`: a shared object with the kernel's global `symbol`."""
        self.function = getattr(ctypes.CDLL(str(library)), symbol)
        self.function.restype = None

    def __call__(
        self, arguments: Sequence[np.ndarray], out_shape: tuple[int, ...], tasks: int
    ) -> np.ndarray:
        """The output for the inputs, computed by `tasks` threads' shares, the last one first."""
        guarded = [_guarded(argument) for argument in arguments]
        out = _guarded(np.full(out_shape, np.nan, np.float32))
        pointers = [ctypes.c_void_p(array[GUARD:].ctypes.data) for array in (*guarded, out)]
        for task in reversed(range(tasks)):
            self.function(ctypes.c_int32(task), ctypes.c_int32(tasks), *pointers)
        assert np.isnan(out[:GUARD]).all()
        assert np.isnan(out[-GUARD:]).all()
        for array, argument in zip(guarded, arguments, strict=True):
            np.testing.assert_array_equal(array, _guarded(argument))
        return out[GUARD:-GUARD].reshape(out_shape)


GUARD = 64


def _guarded(array: np.ndarray) -> np.ndarray:
    """The numbers in a row, aligned as programs align them, between others that are none."""
    size = array.size + 2 * GUARD
    memory = np.full(size + ALIGNMENT, np.nan, dtype=np.float32)
    start = -memory.ctypes.data % ALIGNMENT // memory.itemsize
    flat = memory[start : start + size]
    flat[GUARD:-GUARD] = array.ravel()
    return flat


def packed(weight: np.ndarray, channels: int) -> np.ndarray:
    """A weight as kernels with tiles of so many channels read it, filled up with zeros."""
    tiles = -(-weight.shape[-1] // channels)
    full = np.zeros((*weight.shape[:-1], tiles * channels), np.float32)
    full[..., : weight.shape[-1]] = weight
    parts = [full[..., tile * channels : (tile + 1) * channels] for tile in range(tiles)]
    return np.stack(parts)


def in_a_row(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays as a program takes its weights: flat, each starting at an aligned place."""
    step = ALIGNMENT // 4
    parts = [np.pad(array.ravel(), (0, -array.size % step)) for array in arrays]
    return np.concatenate([np.zeros(0, np.float32), *parts])


def run_flat(path: Path, sizes: Sequence[int], *inputs: np.ndarray, repeats: int = 1) -> np.ndarray:
    """The output of a program's `forward` for its x, weights and workspace, all flat."""
    import tvm

    given = [array if array.size else np.zeros(1, np.float32) for array in inputs]
    assert [array.size for array in given] == list(sizes[: len(given)])
    rest = [np.full(size, np.nan, np.float32) for size in sizes[len(given) :]]
    tensors = [tvm.runtime.tensor(array) for array in (*given, *rest)]
    tvm.runtime.load_module(str(path))["forward"](repeats, *tensors)
    result: np.ndarray = tensors[-1].numpy()
    return result


def empty_object() -> bytes:
    """The shortest file that passes for a whole x86-64 object file."""
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, 64, 0, 64, 0, 0, 64, 1, 0)
    return header + bytes(64)


def empty_library() -> bytes:
    """The shortest file that passes for a whole x86-64 shared library."""
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    segments = [struct.pack("<IIQQQQQQ", kind, 4, 0, 0, 0, 176, 176, 4096) for kind in (1, 2)]
    return header + b"".join(segments)
