"""Boards behind TVM's RPC tracker as a bench: built here, timed on all boards of a key at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ofatvm.compiler.kernels import kernel_sizes
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.compiler.space import VectorUnit, default_config
from ofatvm.device.rpc_address import RpcAddress
from ofatvm.device.rpc_boards import TIMEOUT_S, BoardPool, Job
from ofatvm.events import Event, ignore
from ofatvm.target import Target
from ofatvm.tuning.board_bench import BoardBench
from ofatvm.tuning.builders import Builders
from ofatvm.tuning.workers import REFERENCE, Timing, build_all, time_kernel


class RpcBench(BoardBench[ScheduleConfig]):
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
        boards = BoardPool(
            address,
            target.threads,
            [],
            timeout_s=timeout_s,
            allow_network=allow_network,
            on_event=on_event,
        )
        super().__init__(boards, Builders(builders), default_config(REFERENCE, unit))
        self._target = target
        self._reference: tuple[str, tuple[int, ...]]

    def _use_reference(self, path: Path) -> None:
        sizes = tuple(kernel_sizes(REFERENCE, self._default))
        self._reference = (str(path), sizes)
        self.boards.calibration = [self._reference]

    def measure(
        self, jobs: Sequence[tuple[Workload, ScheduleConfig]], timing: Timing
    ) -> list[tuple[tuple[float, ...], str]]:
        """See `Bench.measure`: all are built side by side, then timed on every board at once."""
        timed = [partial(self._job, tuple(kernel_sizes(*job)), timing) for job in jobs]
        return self._times.take(self._build(jobs), timed)

    def _build(
        self, jobs: Sequence[tuple[Workload, ScheduleConfig]]
    ) -> list[tuple[Path | None, str]]:
        return build_all(self._builders, jobs, self._target, self._default)

    def _job(self, sizes: tuple[int, ...], timing: Timing, path: Path) -> Job:
        return time_kernel, (str(path), sizes, timing, self._reference)
