"""What builds and times candidates of the Relay road: processes of its environment that live on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from ofatvm.compiler.link import find_linker, linked_triple
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.relay_env import (
    RelayDiedError,
    RelayError,
    RelayPool,
    RelayProcess,
    raise_if_killed,
)
from ofatvm.compiler.relay_graph import kernel_program
from ofatvm.device.exclusive import MeasuringLock
from ofatvm.errors import CompileError
from ofatvm.files import scratch
from ofatvm.relay.blocks import Blocking, Config
from ofatvm.relay.build import CALLS, KernelJob, compile_kernels
from ofatvm.relay.load import start_device
from ofatvm.target import Target
from ofatvm.tuning.workers import (
    DISTURBED,
    REFERENCE,
    RETRIES,
    RUN_TIMEOUT_S,
    Timing,
    dead_machine,
    time_kernel,
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A fused kernel under a config of its template."""

    workload: Workload
    config: Config


class Bench(Protocol):
    """What candidates are built and timed on; a context manager."""

    steady: bool
    """Whether a candidate takes as long every time, so that nothing need be timed again."""
    disturbed: int
    """How many timings were taken again because the machine was disturbed."""

    def __enter__(self) -> Self:
        """Get ready."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the processes and delete what was built."""
        ...

    def measure(
        self, candidates: Sequence[Candidate], timing: Timing
    ) -> list[tuple[float | None, str]]:
        """Seconds a call of each, the least of its samples; or None, and what went wrong.

        All are built first, side by side; one that stands there twice is built once.
        """
        ...


class RelayBench:
    """This machine: builders side by side and one runner.

    Timing is that of `tuning.workers`: a reference kernel runs beside every candidate, and what was
    timed on a disturbed machine is timed again.
    """

    steady = False

    def __init__(self, target: Target, blocking: Blocking, pool: RelayPool) -> None:
        """`pool` builds."""
        self.target, self.blocking, self.pool = target, blocking, pool
        self.disturbed = 0
        self._lock = MeasuringLock()
        self._linker = find_linker(linked_triple(target))
        self._runner = RelayProcess(target.threads, initialise=start_device)
        self._reference: str | None = None
        self._reference_s = float("inf")
        self._scratch: AbstractContextManager[Path]
        self._folder: Path
        self._count = 0

    def __enter__(self) -> Self:
        """Take the measuring lock and make a folder; processes start when they are needed."""
        self._lock.take()
        self._scratch = scratch("tune")
        self._folder = self._scratch.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the runner and delete what was built."""
        self._runner.end()
        self._scratch.__exit__(None, None, None)
        self._lock.give_back()

    def measure(
        self, candidates: Sequence[Candidate], timing: Timing
    ) -> list[tuple[float | None, str]]:
        """See `Bench.measure`."""
        distinct = list(dict.fromkeys(candidates))
        built = dict(zip(distinct, self.build(distinct), strict=True))
        results: list[tuple[float | None, str]] = []
        for candidate in candidates:
            path, error = built[candidate]
            if path is None:
                results.append((None, error))
                continue
            seconds, error = self._run(path, timing)
            if seconds is not None:
                timing = replace(timing, best_s=min(timing.best_s, seconds))
            results.append((seconds, error))
        for path, _ in built.values():
            if path is not None:
                for suffix in (".json", ".so", CALLS):
                    path.with_suffix(suffix).unlink(missing_ok=True)
        return results

    def build(self, candidates: Sequence[Candidate]) -> list[tuple[Path | None, str]]:
        """Build all side by side; each one's program, or None and the error."""
        jobs: list[tuple[Path, Candidate, KernelJob, Future[Any]]] = []
        for candidate in candidates:
            self._count += 1
            path = self._folder / f"k{self._count}.so"
            job = KernelJob(candidate.workload, candidate.config, path.stem, str(path))
            jobs.append((path, candidate, job, self._submit(job)))
        built: list[tuple[Path | None, str]] = []
        for path, candidate, job, future in jobs:
            try:
                self._finish(job, future)
            except (RelayError, TimeoutError) as error:
                built.append((None, f"build: {error}"))
                continue
            calls = json.loads(path.with_suffix(CALLS).read_bytes())
            graph = kernel_program(candidate.workload, calls, self.blocking)
            program = path.with_suffix(".json")
            program.write_text(json.dumps({"kernels": [path.name], "graph": graph}))
            built.append((program, ""))
        return built

    def _submit(self, job: KernelJob) -> Future[Any]:
        return self.pool.submit(
            compile_kernels, [job], self.target.to_dict(), self.blocking, self._linker
        )

    def _finish(self, job: KernelJob, future: Future[Any]) -> None:
        """Wait for a build.

        Where its builders died or were out of time, DeviceError if so are those of the reference
        kernel, or if they were killed: nobody's trial.
        """
        try:
            future.result()
        except (RelayDiedError, TimeoutError) as lost:
            raise_if_killed(lost)
            proof = Path(job.path).with_name("reference.so")
            try:
                self._submit(KernelJob(REFERENCE, "", proof.stem, str(proof))).result()
            except (RelayError, TimeoutError):
                raise dead_machine(lost) from None
            raise

    def _run(self, path: Path, timing: Timing) -> tuple[float | None, str]:
        for attempt in range(RETRIES):
            try:
                samples, reference_s = self._timed(str(path), timing)
            except (RelayError, TimeoutError) as error:
                return None, f"run: {error}"
            self._reference_s = min(self._reference_s, reference_s)
            slowdown = reference_s / self._reference_s
            if slowdown <= DISTURBED:
                break
            if attempt == 0:
                self.disturbed += 1
        return min(samples) / max(1.0, slowdown), ""

    def _timed(self, path: str, timing: Timing) -> tuple[list[float], float]:
        """What `time_kernel` gives, or RelayError or TimeoutError; losses as in `Workers`."""
        try:
            return self._ran(path, timing)
        except (RelayDiedError, TimeoutError) as lost:
            raise_if_killed(lost)
            try:
                self._ran(self._built_reference(), Timing())
            except (RelayError, TimeoutError):
                raise dead_machine(lost) from None
            raise

    def _ran(self, path: str, timing: Timing) -> tuple[list[float], float]:
        reference = (self._built_reference(), ())
        samples, reference_s = self._runner.insist(
            time_kernel, path, (), timing, reference, timeout_s=RUN_TIMEOUT_S
        )
        return samples, reference_s

    def _built_reference(self) -> str:
        if self._reference is None:
            path, error = self.build([Candidate(REFERENCE, "")])[0]
            if path is None:
                raise CompileError(f"the reference kernel does not build: {error}")
            self._reference = str(path)
        return self._reference
