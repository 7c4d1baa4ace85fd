"""The GPUs of boards as a bench: nvcc builds kernels here, the boards of a key time them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ofatvm.compiler.gpu import build_gpu_kernel
from ofatvm.compiler.gpu_space import DEFAULT
from ofatvm.compiler.plan import Workload
from ofatvm.device.gpu_visit import GpuSpec, kernel_reference_s, time_gpu_kernel
from ofatvm.device.rpc_address import RpcAddress
from ofatvm.device.rpc_boards import TIMEOUT_S, BoardPool, Job
from ofatvm.errors import CompileError, RecordError
from ofatvm.events import Event, ignore
from ofatvm.target import Target
from ofatvm.tuning.board_bench import BoardBench
from ofatvm.tuning.builders import Builders
from ofatvm.tuning.workers import REFERENCE, Timing

BUILD_TIMEOUT_S = 180.0  # nvcc takes a minute over a kernel with a thousand unrolled steps


class GpuBench(BoardBench[str]):
    """See `ofatvm.tuning.workers.Bench`, and `BoardTimes` for what is whose fault."""

    def __init__(
        self,
        target: Target,
        address: RpcAddress,
        *,
        builders: int,
        runs_on: str = "cuda",
        timeout_s: float = TIMEOUT_S,
        allow_network: bool = False,
        on_event: Callable[[Event], None] = ignore,
    ) -> None:
        """`builders` processes compile here; `timeout_s`: see `BoardPool`.

        `runs_on`: TVM's kind of the device; anything but cuda serves tests.
        """
        # How many threads a board's CPU runs does not matter.
        boards = BoardPool(
            address, 0, [], timeout_s=timeout_s, allow_network=allow_network, on_event=on_event
        )
        super().__init__(boards, Builders(builders, BUILD_TIMEOUT_S), DEFAULT)
        self._target, self._runs_on = target, runs_on
        self._reference: GpuSpec

    def _use_reference(self, path: Path) -> None:
        self._reference = self._spec(REFERENCE, path)
        self.boards.check = (kernel_reference_s, (self._reference,))

    def measure(
        self, jobs: Sequence[tuple[Workload, str]], timing: Timing
    ) -> list[tuple[tuple[float, ...], str]]:
        """See `Bench.measure`: all are built side by side, then timed on every board at once."""
        timed = [partial(self._job, workload, timing) for workload, _ in jobs]
        built = self._build(jobs)
        if any(path is None for path, _ in built):
            self._builders.prove(build_candidate, (REFERENCE, DEFAULT, self._target))
        return self._times.take(built, timed)

    def _build(self, jobs: Sequence[tuple[Workload, str]]) -> list[tuple[Path | None, str]]:
        return self._builders.build(
            build_candidate, [(workload, trace, self._target) for workload, trace in jobs]
        )

    def _job(self, workload: Workload, timing: Timing, path: Path) -> Job:
        words = (timing.repeats, timing.sample_ms / 1e3, timing.cutoff_s)
        return time_gpu_kernel, (self._spec(workload, path), self._reference, *words)

    def _spec(self, workload: Workload, path: Path) -> GpuSpec:
        return str(path), tuple(workload.argument_shapes), self._runs_on


def build_candidate(workload: Workload, trace: str, target: Target, path: str) -> None:
    """Link one candidate, see `build_gpu_kernel`; what nvcc refuses is the candidate's fault.

    Were nvcc at fault, the reference kernel would not build either.
    """
    try:
        build_gpu_kernel(workload, trace, target, path)
    except (CompileError, RecordError) as error:
        raise ValueError(error.message) from None
