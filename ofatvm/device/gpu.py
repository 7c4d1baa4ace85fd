"""The GPUs of boards behind TVM's RPC tracker as one device.

As `ofatvm.device.rpc`, with one network of middling size as yardstick and as proof that a board is
well. Kernels are not timed alone. How many threads a board's CPU runs does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from ofatvm.compiler.kernels import Kernel
from ofatvm.compiler.relax import Program
from ofatvm.device.base import Kind
from ofatvm.device.gpu_visit import GpuSpec, reference_s, visit_gpu, yardstick_s
from ofatvm.device.rounds import STRIKES, Visited, measure_in_rounds
from ofatvm.device.rpc_address import RpcAddress
from ofatvm.device.rpc_boards import TIMEOUT_S, BoardPool, Failed, Job
from ofatvm.device.timing import Latency, Protocol
from ofatvm.errors import DeviceError
from ofatvm.events import Event, ignore


class GpuDevice:
    """The boards of one key; a context manager. Boards are held only while something is measured.

    Entering looks whether there are boards and loads TVM; DeviceError if there are none.
    """

    kind: Kind = "measured"

    def __init__(
        self,
        address: RpcAddress,
        yardstick: Program,
        reference_s: float | None = None,
        *,
        runs_on: str = "cuda",
        timeout_s: float = TIMEOUT_S,
        allow_network: bool = False,
        on_event: Callable[[Event], None] = ignore,
    ) -> None:
        """`reference_s`: the yardstick's undisturbed time, if known; `timeout_s`: `BoardPool`.

        `runs_on`: TVM's kind of the device; anything but cuda serves tests.
        """
        self.name = f"rpc:{address.key}"
        self.runs_on = runs_on
        self.yardstick = self._spec(yardstick)
        self.reference_s = reference_s
        self.boards = BoardPool(
            address,
            0,
            [],
            check=(yardstick_s, (self.yardstick,)),
            timeout_s=timeout_s,
            allow_network=allow_network,
            on_event=on_event,
        )

    def __enter__(self) -> GpuDevice:
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
        jobs = [
            (visit_gpu, (self._spec(p), self.yardstick, protocol.warmup_ms, protocol.block_ms))
            for p in programs
        ]
        try:
            return measure_in_rounds(
                len(programs),
                protocol,
                seed=seed,
                reference_s=self.reference(),
                visit=lambda order: self._visit([jobs[i] for i in order], order),
                fresh=self.boards.release,
                on_visit=on_visit,
                strikes=STRIKES,
            )
        finally:
            self.boards.release()

    def time_kernels(self, kernels: Sequence[Kernel]) -> dict[str, float]:
        """Of no kernels, no times; there are no kernels of a GPU that run alone."""
        if kernels:
            raise DeviceError("a GPU's kernels are not timed alone", hint="measure whole networks")
        return {}

    def reference(self) -> float:
        """Seconds that the yardstick takes undisturbed; DeviceError if it fails."""
        if self.reference_s is None:
            try:
                [(_, found)] = self.boards.run([(reference_s, (self.yardstick,))])
            finally:
                self.boards.release()
            if isinstance(found, Failed):
                raise DeviceError(
                    f"boards of {self.boards.address} do not run the yardstick: {found.text}",
                    hint=f"see `ofatvm devices check {self.boards.address}`",
                )
            self.reference_s = float(found.value)
        return self.reference_s

    def _spec(self, program: Program) -> GpuSpec:
        return str(program.path), program.shapes, self.runs_on

    def _visit(self, jobs: Sequence[Job], order: Sequence[int]) -> Iterator[tuple[int, Visited]]:
        for number, found in self.boards.run(jobs):
            yield order[number], found.text if isinstance(found, Failed) else found.value
