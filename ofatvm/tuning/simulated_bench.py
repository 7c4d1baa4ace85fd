"""The simulated device as a bench: candidates are compiled and simulated side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from ofatvm.compiler.plan import Workload
from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.device.simulated import milliseconds
from ofatvm.device.simulator.jobs import Simulations
from ofatvm.device.simulator.simulate import machine_of_target
from ofatvm.target import Target
from ofatvm.tuning.workers import Timing


class SimulatedBench:
    """Times candidates for a target without it; nothing disturbs a simulation."""

    def __init__(self, target: Target, folder: Path) -> None:
        """`folder` keeps what was simulated. DeviceError if a tool is missing."""
        self.disturbed = 0
        self._machine = machine_of_target(target)
        self._simulations = Simulations(target, folder)

    def __enter__(self) -> SimulatedBench:
        """The first candidates start the worker processes."""
        self._simulations.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the worker processes."""
        self._simulations.__exit__(kind, error, trace)

    def measure(
        self, jobs: Sequence[tuple[Workload, ScheduleConfig]], timing: Timing
    ) -> list[tuple[tuple[float, ...], str]]:
        """See `Bench.measure`; each candidate has one sample, which is the same every time."""
        return [
            ((), error) if error else ((milliseconds(costs, self._machine) / 1e3,), "")
            for costs, error in self._simulations.candidates(jobs)
        ]
