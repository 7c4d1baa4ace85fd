"""Boards behind TVM's RPC tracker as one device: `rpc://HOST:PORT/KEY`.

All boards of a key count as equal. Every round's visits are spread over them as they become free,
so that each program is seen on several boards; a visit carries the yardstick's time on that same
board in that same moment, which cancels what one board is slower by than another. A kernel's times
are normalised by the calibration kernels beside it in the same way.

See `ofatvm.device.rpc_boards` for lost boards, time-outs, and who is blamed for what.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

from ofatvm.compiler.base import CompiledKernel
from ofatvm.compiler.relax import Program
from ofatvm.device.local import kernel_error, program_spec
from ofatvm.device.reference import Reference
from ofatvm.device.rounds import (
    KERNEL_MS,
    Timed,
    Visited,
    kernel_jobs,
    least_ms,
    measure_in_rounds,
)
from ofatvm.device.rpc_address import RpcAddress
from ofatvm.device.rpc_boards import TIMEOUT_S, BoardPool, Failed, Job
from ofatvm.device.timing import Latency, Protocol
from ofatvm.device.visit import Spec, reference_time, time_kernels, visit_program
from ofatvm.errors import DeviceError
from ofatvm.events import Event, ignore
from ofatvm.measurement import Kind


class BoardDevice(ABC):
    """What all devices behind a tracker share: rounds of visits, spread over the boards of a key.

    A context manager; boards are held only while something is measured. Entering looks whether
    there are boards and loads TVM; DeviceError if there are none.
    """

    kind: Kind = "measured"
    visit_reference: Reference
    """The undisturbed time of what visits are normalised by."""

    def __init__(self, boards: BoardPool) -> None:
        """`boards`: those of one key."""
        self.name = boards.address.device
        self.boards = boards

    def __enter__(self) -> Self:
        """Look for boards."""
        self.boards.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the boards back."""
        self.boards.__exit__(kind, error, trace)

    def measure(
        self,
        programs: Sequence[Program],
        protocol: Protocol,
        *,
        seed: int,
        on_visit: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Latency | str]:
        """See `Device.measure`. A program that fails twice is given up; the others go on."""
        if not programs:
            return []
        jobs = [self.visit_job(program, protocol) for program in programs]
        try:
            return measure_in_rounds(
                len(programs),
                protocol,
                seed=seed,
                reference=self.visit_reference,
                visit=lambda order: self._visit([jobs[i] for i in order], order),
                fresh=self.boards.release,
                on_visit=on_visit,
            )
        finally:
            self.boards.release()

    @abstractmethod
    def visit_job(self, program: Program, protocol: Protocol) -> Job:
        """What a board's session process does for one visit of a program."""

    def undisturbed_s(self, job: Job) -> float:
        """The seconds that a job finds for a yardstick; DeviceError if it fails."""
        try:
            [(_, found)] = self.boards.run([job])
        finally:
            self.boards.release()
        if isinstance(found, Failed):
            raise DeviceError(
                f"boards of {self.boards.address} do not run the yardstick: {found.text}",
                hint=f"see `ofatvm devices check {self.boards.address}`",
            )
        return float(found.value)

    def _visit(self, jobs: Sequence[Job], order: Sequence[int]) -> Iterator[tuple[int, Visited]]:
        for number, found in self.boards.run(jobs):
            yield order[number], found.text if isinstance(found, Failed) else found.value


class RpcDevice(BoardDevice):
    """The CPUs of the boards of one key."""

    def __init__(
        self,
        address: RpcAddress,
        threads: int,
        calibration: Sequence[CompiledKernel],
        reference_s: float | None = None,
        *,
        yardstick: Program | None = None,
        yardstick_s: float | None = None,
        timeout_s: float = TIMEOUT_S,
        allow_network: bool = False,
        on_event: Callable[[Event], None] = ignore,
    ) -> None:
        """`calibration`, `yardstick` and their times: see `LocalDevice`; `timeout_s`: `BoardPool`.

        Addresses come from `parse_address`, which refuses hosts that are not this one.
        """
        self.calibration = [program_spec(kernel) for kernel in calibration]
        self.yardstick = None if yardstick is None else program_spec(yardstick)
        self.kernel_reference = self._reference(reference_s, self.calibration)
        self.visit_reference = (
            self.kernel_reference
            if self.yardstick is None
            else self._reference(yardstick_s, self.yardstick)
        )
        super().__init__(
            BoardPool(
                address,
                threads,
                self.calibration,
                timeout_s=timeout_s,
                allow_network=allow_network,
                on_event=on_event,
            )
        )

    def visit_job(self, program: Program, protocol: Protocol) -> Job:
        """See `BoardDevice.visit_job`."""
        yardstick = self.yardstick or self.calibration
        words = (program_spec(program), yardstick, protocol.warmup_ms, protocol.block_ms)
        return visit_program, words

    def time_kernels(self, kernels: Sequence[CompiledKernel]) -> dict[str, float]:
        """See `Device.time_kernels`; DeviceError if one fails."""
        if not kernels:
            return {}
        try:
            self.kernel_reference.get()
            return least_ms(self._timed(kernel_jobs(kernels)), self.kernel_reference)
        finally:
            self.boards.release()

    def _reference(self, seconds: float | None, yardstick: Spec | list[Spec]) -> Reference:
        return Reference(seconds, lambda: self.undisturbed_s((reference_time, (yardstick,))))

    def _timed(
        self, parts: Sequence[Sequence[CompiledKernel]]
    ) -> Iterator[tuple[Sequence[CompiledKernel], Timed]]:
        jobs = [
            (time_kernels, ([program_spec(kernel) for kernel in part], self.calibration, KERNEL_MS))
            for part in parts
        ]
        for number, found in self.boards.run(jobs):
            if isinstance(found, Failed):
                raise kernel_error(parts[number], found.text)
            yield parts[number], found.value
