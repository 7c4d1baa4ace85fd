"""Worker processes that live on: they build kernels side by side and time them one at a time.

Each worker pays for importing TVM once. A candidate that crashes or hangs takes down its worker,
which is started again. One whose worker died or was out of time twice is recorded as failed if the
reference kernel still builds or runs, and the worker was not killed from outside.

A reference kernel is timed beside every candidate. Where it runs slower than it has run before,
other work is disturbing the machine: the candidate is timed again, and in the end its time is
divided by the reference's slowdown, so that trials from busy and quiet minutes can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ofatvm.compiler.kernels import build_kernel, kernel_sizes
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.compiler.space import VectorUnit, default_config
from ofatvm.device.children import DIED, child_pool, outcome, set_threads
from ofatvm.device.exclusive import MeasuringLock
from ofatvm.device.loaded import Loaded, load_program
from ofatvm.errors import CompileError, DeviceError
from ofatvm.target import Target
from ofatvm.tuning.builders import Builders, lost

if TYPE_CHECKING:
    from tvm.support.popen_pool import PopenPoolExecutor

RUN_TIMEOUT_S = 60.0
REFERENCE = Workload("pointwise", (14, 14, 112), (14, 14, 672), activation="h_swish")
DISTURBED = 1.15
RETRIES = 3
REFERENCE_S = 0.002

C = TypeVar("C", contravariant=True)


@dataclass(frozen=True, slots=True)
class Timing:
    """How a kernel is timed: `repeats` samples of at least `sample_ms` each.

    A kernel whose first call is slower than `give_up` times the best known, `best_s`, gets that one
    sample and no more.
    """

    repeats: int = 3
    sample_ms: int = 8
    best_s: float = float("inf")
    give_up: float = float("inf")

    @property
    def cutoff_s(self) -> float:
        """The first call's seconds from which on a kernel is given up."""
        return self.give_up * self.best_s


class Bench(Protocol[C]):
    """Builds and times candidates of some schedule space, whatever runs them; a context manager."""

    @property
    def disturbed(self) -> int:
        """How many candidates were timed again because the machine was busy."""
        ...

    def __enter__(self) -> Bench[C]:
        """Start what it needs."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop all of it."""
        ...

    def measure(
        self, jobs: Sequence[tuple[Workload, C]], timing: Timing
    ) -> list[tuple[tuple[float, ...], str]]:
        """Samples in seconds a call of each candidate; or none, and "build: ..." or "run: ...".

        DeviceError if what runs them is gone, which is no candidate's fault.
        """
        ...


class Workers:
    """This machine as a bench: builders and one runner for a target."""

    def __init__(self, target: Target, unit: VectorUnit, *, builders: int) -> None:
        """Start lazily: the first job starts a process."""
        self.target = target
        self._lock = MeasuringLock()
        self.unit = unit
        self._default = default_config(REFERENCE, unit)
        self._builders = Builders(builders)
        self._reference: tuple[str, Sequence[int]] | None = None
        self._reference_s = float("inf")
        self.disturbed = 0
        self._run_pool: PopenPoolExecutor | None = None

    def __enter__(self) -> Workers:
        """Take the measuring lock and start the pools."""
        self._lock.take()
        self._builders.__enter__()
        self._run_pool = child_pool(set_threads, self.unit.threads, timeout_s=RUN_TIMEOUT_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop every process and delete what they built."""
        if self._run_pool is not None:
            self._run_pool.shutdown()
        self._builders.__exit__(kind, error, trace)
        self._lock.give_back()

    def measure(
        self, jobs: Sequence[tuple[Workload, ScheduleConfig]], timing: Timing
    ) -> list[tuple[tuple[float, ...], str]]:
        """See `Bench.measure`: all are built side by side, then timed one at a time."""
        results: list[tuple[tuple[float, ...], str]] = []
        for (workload, config), (path, error) in zip(jobs, self.build(jobs), strict=True):
            seconds: tuple[float, ...] = ()
            if path is not None:
                seconds, error = self.run(path, kernel_sizes(workload, config), timing)
                timing = replace(timing, best_s=min(timing.best_s, *seconds, float("inf")))
            results.append((seconds, error))
        return results

    def build(
        self, jobs: Sequence[tuple[Workload, ScheduleConfig]]
    ) -> list[tuple[Path | None, str]]:
        """Build all candidates in parallel; for each its module's path, or None and the error."""
        return build_all(self._builders, jobs, self.target, self._default)

    def run(
        self, path: Path, sizes: Sequence[int], timing: Timing
    ) -> tuple[tuple[float, ...], str]:
        """Samples in seconds a call on an undisturbed machine, or no samples and the error."""
        for attempt in range(RETRIES):
            result, error = self._timed(path, sizes, timing)
            if error:
                path.unlink(missing_ok=True)
                return (), error
            samples, reference_s = result
            self._reference_s = min(self._reference_s, reference_s)
            slowdown = reference_s / self._reference_s
            if slowdown <= DISTURBED:
                break
            if attempt == 0:
                self.disturbed += 1
        path.unlink(missing_ok=True)
        return tuple(sample / max(1.0, slowdown) for sample in samples), ""

    def _timed(self, path: Path, sizes: Sequence[int], timing: Timing) -> tuple[Any, str]:
        """What `time_kernel` gives, or None and the error.

        DeviceError if the runner is killed, or dies with the reference kernel alone, too.
        """
        reference = self._built_reference()
        try:
            result, error = self._ran(str(path), tuple(sizes), timing, reference)
        except DeviceError as killed:
            self._prove(killed)
            raise
        if lost(error):
            self._prove(error)
        return result, error

    def _prove(self, error: object) -> None:
        """DeviceError if not even the reference kernel runs."""
        reference = self._built_reference()
        try:
            failed = self._ran(*reference, Timing(), reference)[1]
        except DeviceError:
            failed = DIED
        if failed:
            raise dead_machine(error)

    def _ran(self, *arguments: Any) -> tuple[Any, str]:
        assert self._run_pool is not None
        return outcome(self._run_pool.submit(time_kernel, *arguments), "run")

    def _built_reference(self) -> tuple[str, Sequence[int]]:
        if self._reference is None:
            path, error = self.build([(REFERENCE, self._default)])[0]
            if path is None:
                raise CompileError(f"the reference kernel does not build: {error}")
            self._reference = (str(path), kernel_sizes(REFERENCE, self._default))
        return self._reference


def dead_machine(error: object) -> DeviceError:
    """That no candidate is to blame: the reference kernel does not run either."""
    return DeviceError(
        f"not even the reference kernel runs on this machine: {error}",
        hint="is memory short? The same command continues",
    )


def build_all(
    builders: Builders,
    jobs: Sequence[tuple[Workload, ScheduleConfig]],
    target: Target,
    default: ScheduleConfig,
) -> list[tuple[Path | None, str]]:
    """Build all side by side; each one's path, or None and the error. `default`: the reference's.

    CompileError if builders are lost that the reference kernel costs as well: nobody's trial.
    """
    built = builders.build(build_candidate, [(*job, target) for job in jobs])
    if any(lost(error) for _, error in built):
        builders.prove(build_candidate, (REFERENCE, default, target))
    return built


def build_candidate(workload: Workload, config: ScheduleConfig, target: Target, path: str) -> None:
    """Compile one candidate into a program of its own; runs in a builder."""
    built = Path(path)
    build_kernel(workload, config, "candidate", target, built)
    built.with_suffix(".o").unlink()


_reference: dict[str, Loaded] = {}


def time_kernel(
    path: str, sizes: Sequence[int], timing: Timing, reference: tuple[str, Sequence[int]]
) -> tuple[list[float], float]:
    """Time one candidate on random arguments, and the reference before and after it.

    Runs in the runner. Returns samples and the slower of the two reference times, seconds a call.
    """
    if reference[0] not in _reference:
        _reference[reference[0]] = load_program(*reference)
    known = _reference[reference[0]]
    before = min(known.blocks(2, REFERENCE_S))
    candidate = load_program(path, sizes)
    first = candidate.samples(2)[1]
    if first > timing.cutoff_s:
        return [first], before
    samples = candidate.blocks(timing.repeats, timing.sample_ms / 1e3)
    return samples, max(before, min(known.blocks(2, REFERENCE_S)))
