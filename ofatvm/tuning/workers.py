"""Worker processes that live on: they build kernels side by side and time them one at a time.

Each worker pays for importing TVM once. A candidate that crashes or hangs takes down its worker,
which is started again; the candidate is recorded as failed.

A reference kernel is timed beside every candidate. Where it runs slower than it has run before,
other work is disturbing the machine: the candidate is timed again, and in the end its time is
divided by the reference's slowdown, so that trials from busy and quiet minutes can be compared.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ofatvm.compiler.kernels import build_kernel, kernel_sizes
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.program import FORWARD
from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.compiler.space import VectorUnit, default_config
from ofatvm.errors import CompileError, OfatvmError
from ofatvm.target import Target

if TYPE_CHECKING:
    from tvm.support.popen_pool import PopenPoolExecutor

BUILD_TIMEOUT_S = 60.0
RUN_TIMEOUT_S = 60.0
BUILDS_PER_WORKER = 1000
REFERENCE = Workload("pointwise", (14, 14, 112), (14, 14, 672), activation="h_swish")
DISTURBED = 1.15
RETRIES = 3
REFERENCE_S = 0.002
ESTIMATE_REPEATS = 4
FOLDER_PREFIX = "ofatvm-tune-"


@dataclass(frozen=True, slots=True)
class Timing:
    """How a kernel is timed: `repeats` samples of at least `sample_ms` each.

    A kernel whose first call is slower than `cutoff_s` gets that one sample and no more.
    """

    repeats: int = 3
    sample_ms: int = 8
    cutoff_s: float = float("inf")


class Workers:
    """Builders and one runner for a target; use as a context manager."""

    def __init__(self, target: Target, unit: VectorUnit, *, builders: int) -> None:
        """Start lazily: the first job starts a process."""
        self.target = target
        self.unit = unit
        self.builders = builders
        _sweep()
        self._folder = tempfile.TemporaryDirectory(prefix=f"{FOLDER_PREFIX}{os.getpid()}-")
        self._count = 0
        self._reference: tuple[str, Sequence[int]] | None = None
        self._reference_s = float("inf")
        self.disturbed = 0
        self._build_pool: PopenPoolExecutor | None = None
        self._run_pool: PopenPoolExecutor | None = None

    def __enter__(self) -> Workers:
        """Start the pools."""
        from tvm.support.popen_pool import PopenPoolExecutor

        self._build_pool = PopenPoolExecutor(
            max_workers=self.builders,
            timeout=BUILD_TIMEOUT_S,
            initializer=_initialise,
            initargs=(1,),
            maximum_process_uses=BUILDS_PER_WORKER,
            # What a candidate or an interrupt makes a worker print belongs on nobody's screen.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._run_pool = PopenPoolExecutor(
            max_workers=1,
            timeout=RUN_TIMEOUT_S,
            initializer=_initialise,
            initargs=(self.unit.threads,),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop every process and delete what they built."""
        for pool in (self._build_pool, self._run_pool):
            if pool is not None:
                pool.shutdown()
        self._folder.cleanup()

    def build(
        self, jobs: Sequence[tuple[Workload, ScheduleConfig]]
    ) -> list[tuple[Path | None, str]]:
        """Build all candidates in parallel; for each its module's path, or None and the error."""
        assert self._build_pool is not None
        futures = []
        for workload, config in jobs:
            self._count += 1
            path = Path(self._folder.name) / f"k{self._count}.so"
            job = self._build_pool.submit(build_candidate, workload, config, self.target, str(path))
            futures.append((path, job))
        return [_outcome(path, job, "build") for path, job in futures]

    def run(
        self, path: Path, sizes: Sequence[int], timing: Timing
    ) -> tuple[tuple[float, ...], str]:
        """Samples in seconds a call on an undisturbed machine, or no samples and the error."""
        assert self._run_pool is not None
        for attempt in range(RETRIES):
            job = self._run_pool.submit(
                time_kernel, str(path), tuple(sizes), timing, self._built_reference()
            )
            result, error = _outcome(None, job, "run")
            if error:
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

    def _built_reference(self) -> tuple[str, Sequence[int]]:
        if self._reference is None:
            config = default_config(REFERENCE, self.unit)
            path, error = self.build([(REFERENCE, config)])[0]
            if path is None:
                raise CompileError(f"the reference kernel does not build: {error}")
            self._reference = (str(path), kernel_sizes(REFERENCE, config))
        return self._reference


def _sweep() -> None:
    """Remove what killed runs left in the temporary folder."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*-*"):
        pid = folder.name.removeprefix(FOLDER_PREFIX).split("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _outcome(value: Any, job: Any, what: str) -> tuple[Any, str]:
    """A job's result (or `value` where it has none), or None and a one-line error."""
    try:
        result = job.result()
    except TimeoutError:
        return None, f"{what}: took too long and was killed"
    except ChildProcessError:
        return None, f"{what}: the worker process died"
    except OfatvmError as error:
        # No linker: not the candidate's fault, and true of all others.
        raise type(error)(_last_line(error).partition(": ")[2]) from None
    except OSError as error:
        raise CompileError(f"{what}: {_last_line(error)}", hint="is the disk full?") from None
    except (RuntimeError, ValueError, TypeError, LookupError, AssertionError) as error:
        return None, f"{what}: {_last_line(error)}"
    return (value if result is None else result), ""


def _last_line(error: Exception) -> str:
    """What an error says: Popen workers hand it back with the text of the whole trace."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[:160] if lines else type(error).__name__


def _initialise(threads: int) -> None:
    os.environ["TVM_NUM_THREADS"] = str(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)


def build_candidate(workload: Workload, config: ScheduleConfig, target: Target, path: str) -> None:
    """Compile one candidate into a program of its own; runs in a builder."""
    built = Path(path)
    build_kernel(workload, config, "candidate", target, built)
    built.with_suffix(".o").unlink()


_Loaded = tuple[Any, list[Any]]
_reference: dict[str, _Loaded] = {}


def time_kernel(
    path: str, sizes: Sequence[int], timing: Timing, reference: tuple[str, Sequence[int]]
) -> tuple[list[float], float]:
    """Time one candidate on random arguments, and the reference before and after it.

    Runs in the runner. Returns samples and the slower of the two reference times, seconds a call.
    """
    if reference[0] not in _reference:
        _reference[reference[0]] = _load(*reference)
    known = _reference[reference[0]]
    before = min(_blocks(known, REFERENCE_S, 2))
    candidate = _load(path, sizes)
    first = _block(candidate, 1, 2)[1]
    if first > timing.cutoff_s:
        return [first], before
    samples = _blocks(candidate, timing.sample_ms / 1e3, timing.repeats)
    return samples, max(before, min(_blocks(known, REFERENCE_S, 2)))


def _load(path: str, sizes: Sequence[int]) -> _Loaded:
    import numpy as np
    import tvm

    rng = np.random.default_rng(0)
    arguments = [
        tvm.runtime.tensor(rng.random(size, dtype=np.float32) - np.float32(0.5)) for size in sizes
    ]
    return tvm.runtime.load_module(path), arguments


def _blocks(loaded: _Loaded, seconds: float, count: int) -> list[float]:
    """Seconds a call, in `count` blocks of about `seconds` without parting of the threads."""
    estimate = max(min(_block(loaded, ESTIMATE_REPEATS, 2)), 1e-8)
    return _block(loaded, max(1, round(seconds / estimate)), count)


def _block(loaded: _Loaded, repeats: int, count: int) -> list[float]:
    import tvm

    module, arguments = loaded
    evaluate = module.time_evaluator(FORWARD, tvm.cpu(), number=1, repeat=count)
    return [float(second) / repeats for second in evaluate(repeats, *arguments).results]
