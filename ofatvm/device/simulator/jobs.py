"""Simulations in worker processes that live on, each result kept under a key of its code."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ofatvm.compiler.base import CompiledKernel, library_digest
from ofatvm.compiler.kernels import build_object, kernel_digest, kernel_sizes, kernel_step
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.program import Step
from ofatvm.compiler.relax import Program
from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.device.children import child_pool, last_line, outcome, set_threads
from ofatvm.device.qemu import not_executed
from ofatvm.device.simulator.cost import StepCost
from ofatvm.device.simulator.results import Results
from ofatvm.device.simulator.simulate import TIMEOUT_S, simulate, simulator_digest
from ofatvm.errors import CompileError, DeviceError, MeasurementError
from ofatvm.files import scratch
from ofatvm.target import Target

if TYPE_CHECKING:
    from tvm.support.popen_pool import PopenPoolExecutor

BUILD_S = 120.0
CANDIDATE = "candidate"
Outcome = tuple[list[StepCost], str]
"""The cost of each step; or nothing, and what went wrong."""


class Simulations:
    """Simulates for one target, in as many processes as there are cores; a context manager.

    `folder` keeps tools, blocks and results. What was simulated before is not simulated again.
    """

    def __init__(self, target: Target, folder: Path) -> None:
        """Checks that everything a simulation needs is there: DeviceError otherwise."""
        if reason := not_executed(target):
            raise DeviceError(
                f"code for {target.name} cannot be simulated: {reason}",
                hint="measure on a machine of that kind, or take another --target",
            )
        self.target, self.folder = target, folder.absolute()
        self.digest = simulator_digest(target, self.folder)
        self._results = Results(self.folder)
        self._pool: PopenPoolExecutor | None = None

    def __enter__(self) -> Simulations:
        """The processes start with the first simulation."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the processes."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def programs(
        self, programs: Sequence[Program], on_done: Callable[[int], None] = lambda done: None
    ) -> list[Outcome]:
        """Simulate whole networks."""
        jobs = {
            self._key("program", library_digest(p.kernels), _text(p)): (simulate_program, p)
            for p in programs
        }
        found = self._all(jobs, on_done)
        return [found[self._key("program", library_digest(p.kernels), _text(p))] for p in programs]

    def kernels(self, kernels: Sequence[CompiledKernel]) -> list[Outcome]:
        """Simulate compiled kernels, each alone."""
        jobs = {self._key("kernel", k.digest): (simulate_kernel, k) for k in kernels}
        found = self._all(jobs)
        return [found[self._key("kernel", k.digest)] for k in kernels]

    def candidates(self, candidates: Sequence[tuple[Workload, ScheduleConfig]]) -> list[Outcome]:
        """Compile and simulate scheduled workloads, each alone."""
        keys = [
            self._key("kernel", kernel_digest(workload, config, self.target))
            for workload, config in candidates
        ]
        jobs = {
            key: (simulate_candidate, candidate)
            for key, candidate in zip(keys, candidates, strict=True)
        }
        found = self._all(jobs)
        return [found[key] for key in keys]

    def _key(self, *parts: str) -> str:
        return hashlib.sha256(" ".join([self.digest, *parts]).encode()).hexdigest()[:32]

    def _all(
        self,
        jobs: Mapping[str, tuple[Callable[..., Outcome], object]],
        on_done: Callable[[int], None] = lambda done: None,
    ) -> dict[str, Outcome]:
        found: dict[str, Outcome] = {
            key: (costs, "") for key, costs in self._results.get(list(jobs)).items()
        }
        todo = [key for key in jobs if key not in found]
        if todo and self._pool is None:
            self._pool = child_pool(
                set_threads,
                1,
                timeout_s=2 * TIMEOUT_S + BUILD_S,
                children=len(os.sched_getaffinity(0)),
            )
        pending = []
        for key in todo:
            assert self._pool is not None
            function, argument = jobs[key]
            pending.append(
                (key, self._pool.submit(function, argument, self.target, str(self.folder)))
            )
        for key, job in pending:
            done, died = outcome(job, "run", apart=True)  # under qemu
            found[key] = ([], died) if died else done
            costs, error = found[key]
            if not error:
                self._results.put({key: costs})
            on_done(len(found))
        return found


def _text(program: Program) -> str:
    return json.dumps([[astuple(step) for step in program.steps], program.sizes])


def simulate_program(program: Program, target: Target, folder: str) -> Outcome:
    """Each step of a network; runs in a worker process."""
    objects = [path for kernel in program.kernels for path in kernel.objects]
    return _outcome(target, program.steps, program.sizes, objects, folder)


def simulate_kernel(kernel: CompiledKernel, target: Target, folder: str) -> Outcome:
    """A compiled kernel alone; runs in a worker process."""
    return _outcome(target, kernel.steps, kernel.sizes, kernel.objects, folder)


def simulate_candidate(
    candidate: tuple[Workload, ScheduleConfig], target: Target, folder: str
) -> Outcome:
    """A workload under a schedule, compiled for this; runs in a worker process."""
    workload, config = candidate
    with scratch("candidate") as room:
        path = room / "candidate.o"
        try:
            build_object(workload, config, CANDIDATE, target, path)
        except (RuntimeError, ValueError, TypeError) as error:
            return [], f"build: {last_line(error)}"
        step = kernel_step(workload, config, CANDIDATE)
        return _outcome(target, [step], kernel_sizes(workload, config), [path], folder)


def _outcome(
    target: Target,
    steps: Sequence[Step],
    sizes: Sequence[int],
    objects: Sequence[Path],
    folder: str,
) -> Outcome:
    """What the code does wrong is its outcome; what the tools lack is an error of everything."""
    if not steps:
        return [], "run: it has no steps"
    try:
        return simulate(target, steps, sizes, objects, Path(folder)), ""
    except (CompileError, MeasurementError) as error:
        return [], f"run: {error.message}"
