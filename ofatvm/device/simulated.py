"""The simulated device: latencies without the board, from qemu, LLVM's CPU models and caches.

They are deterministic and always called simulated. Threads are modelled, not run: each thread's
share of a kernel is counted by itself, a kernel takes as long as its slowest share, and where the
threads meet a fixed cost is added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from ofatvm.compiler.base import CompiledKernel
from ofatvm.compiler.relax import Program
from ofatvm.device.simulator.cost import StepCost
from ofatvm.device.simulator.jobs import Simulations
from ofatvm.device.simulator.simulate import machine_of_target
from ofatvm.device.timing import Latency, Protocol
from ofatvm.errors import DeviceError
from ofatvm.machine import Machine
from ofatvm.measurement import Kind
from ofatvm.target import Target

MEETING_TRANSFERS = 4
"""Lines that travel between cores when threads meet: the counter to and fro, and the release."""


class SimulatedDevice:
    """Any target that has a [machine] table, simulated on this machine; a context manager."""

    kind: Kind = "simulated"

    def __init__(self, target: Target, folder: Path) -> None:
        """`folder` keeps what was simulated. DeviceError if a tool is missing."""
        self.target = target
        self.machine = machine_of_target(target)
        self.simulations = Simulations(target, folder)
        self.name = f"simulated-{self.simulations.digest}"

    def __enter__(self) -> SimulatedDevice:
        """Nothing is taken: simulations do not disturb each other."""
        self.simulations.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the worker processes."""
        self.simulations.__exit__(kind, error, trace)

    def measure(
        self,
        programs: Sequence[Program],
        protocol: Protocol,
        *,
        seed: int,
        on_visit: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Latency | str]:
        """See `Device.measure`; one run says it all, so protocol and seed change nothing."""
        outcomes = self.simulations.programs(
            programs, on_done=lambda done: on_visit(done, len(programs))
        )
        return [
            error or self._latency(costs, p)
            for p, (costs, error) in zip(programs, outcomes, strict=True)
        ]

    def time_kernels(self, kernels: Sequence[CompiledKernel]) -> dict[str, float]:
        """See `Device.time_kernels`."""
        result: dict[str, float] = {}
        for kernel, (costs, error) in zip(kernels, self.simulations.kernels(kernels), strict=True):
            if error:
                raise DeviceError(f"{kernel.workload.key} cannot be simulated: {error}")
            result[kernel.digest] = milliseconds(costs, self.machine)
        return result

    def _latency(self, costs: Sequence[StepCost], program: Program) -> Latency:
        shared = sum(step.parallel for step in program.steps) if self.target.threads > 1 else 0
        latency = milliseconds(costs, self.machine, meetings=shared)
        return Latency(
            latency_ms=latency,
            p90_ms=latency,
            raw_ms=latency,
            ci_low_ms=latency,
            ci_high_ms=latency,
            visits_ms=(latency,),
            calls=1,
            calibration_ratio=1.0,
            unstable=False,
        )


def milliseconds(costs: Sequence[StepCost], machine: Machine, *, meetings: int = 0) -> float:
    """The time of some steps after which the threads meet so many times."""
    transfer = machine.caches[-1].latency_cycles
    cycles = sum(cost.cycles for cost in costs) + meetings * MEETING_TRANSFERS * transfer
    return cycles / (machine.clock_ghz * 1e6)
