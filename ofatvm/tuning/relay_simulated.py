"""The simulated device as a bench of the Relay road."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

from ofatvm.compiler.relay import RelayLibrary
from ofatvm.compiler.relay_env import RelayDiedError, RelayPool
from ofatvm.device.simulated import milliseconds
from ofatvm.device.simulator.jobs import Simulations
from ofatvm.device.simulator.simulate import machine_of_target
from ofatvm.errors import CompileError
from ofatvm.files import scratch
from ofatvm.relay.blocks import Blocking
from ofatvm.target import Target
from ofatvm.tuning.relay_bench import Candidate
from ofatvm.tuning.workers import REFERENCE, Timing, dead_machine


class SimulatedRelayBench:
    """Compiles candidates of the Relay road for a target and simulates them, both side by side."""

    steady = True

    def __init__(self, target: Target, blocking: Blocking, pool: RelayPool, folder: Path) -> None:
        """`pool` builds; `folder` keeps what was simulated. DeviceError if a tool is missing."""
        self.disturbed = 0
        self.target, self.blocking, self.pool = target, blocking, pool
        self._machine = machine_of_target(target)
        self._simulations = Simulations(target, folder)
        self._scratch: AbstractContextManager[Path]
        self._folder: Path
        self._library: RelayLibrary

    def __enter__(self) -> Self:
        """Make a folder for what is built; processes start when they are needed."""
        self._scratch = scratch("tune")
        self._folder = self._scratch.__enter__()
        self._library = RelayLibrary(
            self._folder, self.target, self.blocking, {}, self.pool, linked=False
        )
        self._simulations.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the processes and delete what was built."""
        self._simulations.__exit__(kind, error, trace)
        self._scratch.__exit__(None, None, None)

    def measure(
        self, candidates: Sequence[Candidate], timing: Timing
    ) -> list[tuple[float | None, str]]:
        """See `Bench.measure`."""
        distinct = list(dict.fromkeys(candidates))
        tried = self._library.attempt([(c.workload, c.config) for c in distinct])
        kernels = [kernel for kernel in tried if not isinstance(kernel, Exception)]
        self._check([error for error in tried if isinstance(error, RelayDiedError)])
        outcomes = iter(self._simulations.kernels(kernels))
        found: dict[Candidate, tuple[float | None, str]] = {}
        for candidate, kernel in zip(distinct, tried, strict=True):
            if isinstance(kernel, Exception):
                found[candidate] = None, f"build: {kernel}"
                continue
            costs, error = next(outcomes)
            seconds = None if error else milliseconds(costs, self._machine) / 1e3
            found[candidate] = seconds, error
        return [found[candidate] for candidate in candidates]

    def _check(self, deaths: Sequence[RelayDiedError]) -> None:
        """DeviceError if builders died, and die over the reference kernel, too: nobody's trial."""
        if not deaths:
            return
        try:
            self._library.require([REFERENCE])
        except CompileError:
            raise dead_machine(deaths[0]) from None
