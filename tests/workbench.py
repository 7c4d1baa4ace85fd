"""What tests of devices, pipeline and commands share: real kernels, and a machine that pretends."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import networkx as nx

from ofatvm.arch import SPACES, ArchSpace
from ofatvm.compiler.kernels import Kernel, compile_kernels
from ofatvm.compiler.plan import Workload, kernel_calls
from ofatvm.compiler.relax import Program, build_program
from ofatvm.compiler.space import VectorUnit
from ofatvm.device.base import Kind
from ofatvm.device.timing import Latency, Protocol, Visit, summarise
from ofatvm.pipeline.setup import Setup
from ofatvm.target import Target, parse_target

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

    def compile(self, kernels: Sequence[Kernel], target: dict[str, Any]) -> None:
        for kernel in kernels:
            kernel.path.write_bytes(empty_library())
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
        for program in programs:
            if self.measured == self.dies_after:
                raise KeyboardInterrupt
            self.measured += 1
            on_visit(self.measured, len(programs))
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


def empty_library() -> bytes:
    """The shortest file that passes for a whole x86-64 shared library."""
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    segments = [struct.pack("<IIQQQQQQ", kind, 4, 0, 0, 0, 176, 176, 4096) for kind in (1, 2)]
    return header + b"".join(segments)
