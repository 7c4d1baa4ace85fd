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

from ofatvm.compiler.plan import Workload
from ofatvm.compiler.schedule import ScheduleConfig, kernel_shapes
from ofatvm.compiler.space import VectorUnit, default_config
from ofatvm.errors import CompileError, OfatvmError

if TYPE_CHECKING:
    from tvm.support.popen_pool import PopenPoolExecutor

BUILD_TIMEOUT_S = 60.0
RUN_TIMEOUT_S = 60.0
BUILDS_PER_WORKER = 1000
REFERENCE = Workload("pointwise", (14, 14, 112), (14, 14, 672), activation="h_swish")
DISTURBED = 1.15
RETRIES = 3
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

    def __init__(self, target: dict[str, Any], unit: VectorUnit, *, builders: int) -> None:
        """Start lazily: the first job starts a process."""
        self.target = target
        self.unit = unit
        self.builders = builders
        _sweep()
        self._folder = tempfile.TemporaryDirectory(prefix=f"{FOLDER_PREFIX}{os.getpid()}-")
        self._count = 0
        self._reference: tuple[str, list[tuple[int, ...]]] | None = None
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
            job = self._build_pool.submit(build_kernel, workload, config, self.target, str(path))
            futures.append((path, job))
        return [_outcome(path, job, "build") for path, job in futures]

    def run(
        self, path: Path, shapes: Sequence[tuple[int, ...]], timing: Timing
    ) -> tuple[tuple[float, ...], str]:
        """Samples in seconds a call on an undisturbed machine, or no samples and the error."""
        assert self._run_pool is not None
        for attempt in range(RETRIES):
            job = self._run_pool.submit(
                time_kernel, str(path), list(shapes), timing, self._built_reference()
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

    def _built_reference(self) -> tuple[str, list[tuple[int, ...]]]:
        if self._reference is None:
            config = default_config(REFERENCE, self.unit)
            path, error = self.build([(REFERENCE, config)])[0]
            if path is None:
                raise CompileError(f"the reference kernel does not build: {error}")
            self._reference = (str(path), kernel_shapes(REFERENCE, config))
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


def build_kernel(
    workload: Workload, config: ScheduleConfig, target: dict[str, Any], path: str
) -> None:
    """Compile one candidate into a shared library; runs in a builder."""
    import tvm

    from ofatvm.compiler.link import link_host
    from ofatvm.compiler.schedule import scheduled

    module = tvm.tirx.build(scheduled(workload, config).mod, target=tvm.target.Target(target))
    module.export_library(path, fcompile=link_host)


_Reference = tuple[Any, list[Any]]
_loaded: dict[str, _Reference] = {}


def time_kernel(
    path: str,
    shapes: list[tuple[int, ...]],
    timing: Timing,
    reference: tuple[str, list[tuple[int, ...]]],
) -> tuple[list[float], float]:
    """Time one candidate on random arguments, and the reference before and after it.

    Runs in the runner. Returns samples and the slower of the two reference times, seconds a call.
    """
    import tvm

    device = tvm.cpu()
    if reference[0] not in _loaded:
        _loaded[reference[0]] = _load(*reference)

    def reference_time() -> float:
        module, arguments = _loaded[reference[0]]
        evaluator = module.time_evaluator("main", device, number=1, repeat=2, min_repeat_ms=2)
        return float(min(evaluator(*arguments).results))

    before = reference_time()
    module, arguments = _load(path, shapes)
    first = module.time_evaluator("main", device, number=1, repeat=2)(*arguments).results[1]
    if first > timing.cutoff_s:
        return [float(first)], before
    evaluator = module.time_evaluator(
        "main", device, number=1, repeat=timing.repeats, min_repeat_ms=timing.sample_ms
    )
    samples = [float(second) for second in evaluator(*arguments).results]
    return samples, max(before, reference_time())


def _load(path: str, shapes: list[tuple[int, ...]]) -> _Reference:
    import numpy as np
    import tvm

    rng = np.random.default_rng(0)
    arguments = [
        tvm.runtime.tensor(rng.random(shape, dtype=np.float32) - np.float32(0.5))
        for shape in shapes
    ]
    return tvm.runtime.load_module(path), arguments
