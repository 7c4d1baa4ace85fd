"""This machine as a device: programs run in child processes, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ofatvm.compiler.base import CompiledKernel
from ofatvm.compiler.relax import Program
from ofatvm.device.children import HINT, LOST, KilledError, child_pool, last_line
from ofatvm.device.exclusive import MeasuringLock
from ofatvm.device.reference import Reference
from ofatvm.device.rounds import (
    KERNEL_MS,
    STRIKES,
    Timed,
    Visited,
    kernel_jobs,
    least_ms,
    measure_in_rounds,
)
from ofatvm.device.timing import Latency, Protocol
from ofatvm.device.visit import (
    Spec,
    initialise,
    reference_time,
    time_kernels,
    visit_program,
)
from ofatvm.errors import DeviceError
from ofatvm.measurement import Kind

if TYPE_CHECKING:
    from tvm.support.popen_pool import PopenPoolExecutor

VISIT_TIMEOUT_S = 60.0


class LocalDevice:
    """This machine's CPU with a fixed number of threads; a context manager.

    Entering takes a machine-wide lock, so that two measuring processes never disturb each other.
    """

    name = "local"
    kind: Kind = "measured"

    def __init__(
        self,
        threads: int,
        calibration: Sequence[CompiledKernel],
        reference_s: float | None = None,
        *,
        yardstick: Program | None = None,
        yardstick_s: float | None = None,
    ) -> None:
        """`calibration`: kernels that kernel times are normalised by; `reference_s`: their time.

        Visits are normalised by the `yardstick`, a network that is disturbed by what disturbs
        networks, whose usual time is `yardstick_s`; without one, by the kernels too. References
        that are not given are taken when they are first needed.
        """
        self.threads = threads
        self.calibration = [program_spec(kernel) for kernel in calibration]
        self.yardstick = None if yardstick is None else program_spec(yardstick)
        self.kernel_reference = Reference(reference_s, partial(self._undisturbed, self.calibration))
        self.visit_reference = (
            self.kernel_reference
            if self.yardstick is None
            else Reference(yardstick_s, partial(self._undisturbed, self.yardstick))
        )
        self._pool: PopenPoolExecutor | None = None
        self._lock = MeasuringLock()

    def __enter__(self) -> LocalDevice:
        """Take the machine-wide measuring lock."""
        self._lock.take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the child process and give the lock back."""
        self._restart()
        self._lock.give_back()

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
        return measure_in_rounds(
            len(programs),
            protocol,
            seed=seed,
            reference=self.visit_reference,
            visit=lambda order: ((i, self._visit(programs[i], protocol)) for i in order),
            fresh=self._restart,
            on_visit=on_visit,
            strikes=STRIKES,
        )

    def time_kernels(self, kernels: Sequence[CompiledKernel]) -> dict[str, float]:
        """See `Device.time_kernels`; DeviceError if one fails."""
        self.kernel_reference.get()
        jobs = kernel_jobs(kernels)
        return least_ms(((job, self._time(job)) for job in jobs), self.kernel_reference)

    def _visit(self, program: Program, protocol: Protocol) -> Visited:
        try:
            calls, calibration = self._call(
                visit_program,
                program_spec(program),
                self.yardstick or self.calibration,
                protocol.warmup_ms,
                protocol.block_ms,
            )
        except _CandidateError as error:
            self._restart()
            # The device must still work before a program is blamed.
            self.check()
            return str(error)
        return calls, tuple(calibration)

    def _time(self, kernels: Sequence[CompiledKernel]) -> Timed:
        specs = [program_spec(kernel) for kernel in kernels]
        try:
            times, calibration = self._call(time_kernels, specs, self.calibration, KERNEL_MS)
        except _CandidateError as error:
            self._restart()
            raise kernel_error(kernels, str(error)) from None
        return times, calibration

    def check(self) -> None:
        """Run the calibration kernels; DeviceError if even they fail."""
        self._calibrate(time_kernels, [], self.calibration, 1.0)

    def _undisturbed(self, yardstick: Spec | list[Spec]) -> float:
        return float(self._calibrate(reference_time, yardstick))

    def _calibrate(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return self._call(function, *arguments)
        except _CandidateError as error:
            raise DeviceError(
                f"the local device does not run the calibration kernels: {error}",
                hint="see `ofatvm doctor`",
            ) from None

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self._pool is None:
            self._pool = self._start()
        try:
            return self._pool.submit(function, *arguments).result()
        except TimeoutError:
            raise _CandidateError(f"took longer than {VISIT_TIMEOUT_S:.0f} s") from None
        except KilledError:
            raise DeviceError("the process that measures was killed, twice", hint=HINT) from None
        except LOST:
            raise _CandidateError("the process running it died") from None
        except (
            RuntimeError,
            ValueError,
            TypeError,
            AttributeError,
            LookupError,
            MemoryError,
            OSError,
        ) as error:
            raise _CandidateError(last_line(error)) from None

    def _start(self) -> PopenPoolExecutor:
        """The process that programs run in."""
        return child_pool(initialise, self.threads, timeout_s=VISIT_TIMEOUT_S)

    def _restart(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


class _CandidateError(Exception):
    """A program or kernel failed; whether it or the device is to blame is still open."""


def program_spec(program: Program | CompiledKernel) -> Spec:
    """A program, or the program of a kernel alone, as the child process gets it."""
    return str(program.path), program.sizes


def kernel_error(kernels: Sequence[CompiledKernel], reason: str) -> DeviceError:
    """Some kernels of the library, which all ran once, do not run."""
    return DeviceError(
        f"a kernel of {kernels[0].symbol} to {kernels[-1].symbol} does not run: {reason}",
        hint=f"delete {kernels[0].path.parent}, so that they are compiled anew",
    )
