"""Boards behind TVM's RPC tracker as a bench: built here, timed on all boards of a key at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ofatvm.compiler.kernels import kernel_sizes
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.compiler.space import VectorUnit, default_config
from ofatvm.device.rounds import STRIKES
from ofatvm.device.rpc_address import RpcAddress
from ofatvm.device.rpc_boards import TIMEOUT_S, BoardPool, Failed
from ofatvm.errors import CompileError
from ofatvm.events import Event, ignore
from ofatvm.target import Target
from ofatvm.tuning.workers import DISTURBED, REFERENCE, RETRIES, Timing, Workers, time_kernel


@dataclass(slots=True)
class _Candidate:
    """A built candidate, how often it failed on a board that is well, and its best timing."""

    path: Path
    sizes: tuple[int, ...]
    failures: int = 0
    tries: int = 0
    samples: tuple[float, ...] = ()
    slowdown: float = float("inf")
    error: str = ""

    @property
    def open(self) -> bool:
        """Whether it must be timed, or timed again."""
        if self.failures:
            return self.failures < STRIKES and not self.samples
        return self.slowdown > DISTURBED and self.tries < RETRIES


class RpcBench:
    """See `ofatvm.tuning.workers.Bench`.

    Times are normalised by the reference kernel's best on the same board. A candidate that fails is
    tried once more; only then it has failed. What boards do is nobody's trial: DeviceError.
    """

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
        self.disturbed = 0
        self._unit = unit
        self._workers = Workers(target, unit, builders=builders, measures=False)
        self._reference: tuple[str, tuple[int, ...]] | None = None
        self._best: dict[str, float] = {}
        self.boards = BoardPool(
            address,
            target.threads,
            [],
            timeout_s=timeout_s,
            allow_network=allow_network,
            on_event=on_event,
        )

    def __enter__(self) -> RpcBench:
        """Look for boards, then start the builders and build the reference kernel."""
        with ExitStack() as entered:
            entered.enter_context(self.boards)
            entered.enter_context(self._workers)
            config = default_config(REFERENCE, self._unit)
            path, error = self._workers.build([(REFERENCE, config)])[0]
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
        self._workers.__exit__(kind, error, trace)

    def measure(
        self, jobs: Sequence[tuple[Workload, ScheduleConfig]], timing: Timing
    ) -> list[tuple[tuple[float, ...], str]]:
        """See `Bench.measure`: all are built side by side, then timed on every board at once."""
        built = self._workers.build(jobs)
        candidates = [
            _Candidate(path, tuple(kernel_sizes(*job))) if path is not None else None
            for job, (path, _) in zip(jobs, built, strict=True)
        ]
        try:
            while again := [c for c in candidates if c is not None and c.open]:
                self._time(again, timing)
        finally:
            self.boards.release()
            for path, _ in built:
                if path is not None:
                    path.unlink(missing_ok=True)
        return [
            ((), error) if candidate is None else _result(candidate)
            for candidate, (_, error) in zip(candidates, built, strict=True)
        ]

    def _time(self, candidates: Sequence[_Candidate], timing: Timing) -> None:
        """Time each once, on whatever board is free."""
        work = [(time_kernel, (str(c.path), c.sizes, timing, self._reference)) for c in candidates]
        for number, found in self.boards.run(work):
            candidate = candidates[number]
            candidate.tries += 1
            if isinstance(found, Failed):
                candidate.failures += 1
                candidate.error = f"run: {found.text}"
                continue
            samples, reference_s = found.value
            best = self._best.get(found.board, float("inf"))
            self._best[found.board] = min(best, reference_s)
            slowdown = reference_s / self._best[found.board]
            if slowdown < candidate.slowdown:
                candidate.samples = tuple(sample / max(1.0, slowdown) for sample in samples)
                candidate.slowdown = slowdown
            if candidate.tries == 1 and slowdown > DISTURBED:
                self.disturbed += 1


def _result(candidate: _Candidate) -> tuple[tuple[float, ...], str]:
    return (candidate.samples, "") if candidate.samples else ((), candidate.error)
