"""Boards behind TVM's RPC tracker as a bench: built here, timed on all boards of a key at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType

from ofatvm.compiler.kernels import kernel_sizes
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.compiler.space import VectorUnit, default_config
from ofatvm.device.rpc_address import RpcAddress
from ofatvm.device.rpc_boards import TIMEOUT_S, BoardPool, Job
from ofatvm.errors import CompileError
from ofatvm.events import Event, ignore
from ofatvm.target import Target
from ofatvm.tuning.board_times import BoardTimes
from ofatvm.tuning.builders import Builders
from ofatvm.tuning.workers import REFERENCE, Timing, build_candidate, time_kernel


class RpcBench:
    """See `ofatvm.tuning.workers.Bench`, and `BoardTimes` for what is whose fault."""

    def __init__(
        self,
        target: Target,
        unit: VectorUnit,
        address: RpcAddress,
        *,
        builders: int,
        timeout_s: float = TIMEOUT_S,
        allow_network: bool = False,
        on_event: Callable[[Event], None] = ignore,
    ) -> None:
        """`builders` processes compile here; `timeout_s`: see `BoardPool`."""
        self._target, self._unit = target, unit
        self._builders = Builders(builders)
        self._reference: tuple[str, tuple[int, ...]]
        self.boards = BoardPool(
            address,
            target.threads,
            [],
            timeout_s=timeout_s,
            allow_network=allow_network,
            on_event=on_event,
        )
        self._times = BoardTimes(self.boards)

    @property
    def disturbed(self) -> int:
        """How many candidates were timed again because their board was busy."""
        return self._times.disturbed

    def __enter__(self) -> RpcBench:
        """Look for boards, then start the builders and build the reference kernel."""
        with ExitStack() as entered:
            entered.enter_context(self.boards)
            entered.enter_context(self._builders)
            config = default_config(REFERENCE, self._unit)
            [(path, error)] = self._build([(REFERENCE, config)])
            if path is None:
                raise CompileError(f"the reference kernel does not build: {error}")
            entered.pop_all()  # all is well: they are left when the bench is
        self._reference = (str(path), tuple(kernel_sizes(REFERENCE, config)))
        self.boards.calibration = [self._reference]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the boards back, stop the builders, delete what they built."""
        self.boards.__exit__(kind, error, trace)
        self._builders.__exit__(kind, error, trace)

    def measure(
        self, jobs: Sequence[tuple[Workload, ScheduleConfig]], timing: Timing
    ) -> list[tuple[tuple[float, ...], str]]:
        """See `Bench.measure`: all are built side by side, then timed on every board at once."""
        timed = [partial(self._job, tuple(kernel_sizes(*job)), timing) for job in jobs]
        return self._times.take(self._build(jobs), timed)

    def _build(
        self, jobs: Sequence[tuple[Workload, ScheduleConfig]]
    ) -> list[tuple[Path | None, str]]:
        return self._builders.build(
            build_candidate, [(workload, config, self._target) for workload, config in jobs]
        )

    def _job(self, sizes: tuple[int, ...], timing: Timing, path: Path) -> Job:
        return time_kernel, (str(path), sizes, timing, self._reference)
