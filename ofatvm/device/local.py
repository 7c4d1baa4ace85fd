"""This machine as a device: programs run in child processes, one at a time."""

from __future__ import annotations

import fcntl
import os
import pickle
import struct
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from ofatvm.compiler.kernels import Kernel
from ofatvm.compiler.relax import Program
from ofatvm.device.base import Kind
from ofatvm.device.children import child_pool, last_line
from ofatvm.device.timing import Latency, Protocol, Visit, calm_rounds, summarise
from ofatvm.device.visit import (
    Spec,
    initialise,
    reference_time,
    time_kernels,
    visit_program,
)
from ofatvm.errors import BusyError, DeviceError

if TYPE_CHECKING:
    from tvm.support.popen_pool import PopenPoolExecutor

VISIT_TIMEOUT_S = 60.0
START_S = 180.0
STRIKES = 2
KERNEL_MS = 25.0
KERNEL_PASSES = 3
KERNELS_PER_JOB = 20
MIN_ROUNDS = 3


class LocalDevice:
    """This machine's CPU with a fixed number of threads; a context manager.

    Entering takes a machine-wide lock, so that two measuring processes never disturb each other.
    """

    name = "local"
    kind: Kind = "measured"

    def __init__(
        self,
        threads: int,
        calibration: Sequence[Kernel],
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
        self.reference_s = reference_s
        self.yardstick = None if yardstick is None else program_spec(yardstick)
        self.yardstick_s = yardstick_s
        self._pool: PopenPoolExecutor | None = None
        self._lock: int | None = None

    def __enter__(self) -> LocalDevice:
        """Take the machine-wide measuring lock."""
        lock = _open_lock(Path(tempfile.gettempdir()) / "ofatvm-measuring.lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise BusyError(
                "another ofatvm process is measuring on this machine", hint="wait for it to end"
            ) from None
        self._lock = lock
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the child process and give the lock back."""
        self._restart()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

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
        reference = self.visit_reference()
        rng = np.random.default_rng(seed)
        visits: list[list[Visit]] = [[] for _ in programs]
        failures: list[list[str]] = [[] for _ in programs]
        total, done = protocol.processes * protocol.rounds * len(programs), 0
        for process in range(protocol.processes):
            if protocol.processes > 1:
                self._restart()
            for number in range(protocol.rounds):
                for i in rng.permutation(len(programs)):
                    done += 1
                    if len(failures[i]) < STRIKES:
                        where = (process, process * protocol.rounds + number)
                        self._visit(programs[i], protocol, where, visits[i], failures[i])
                    on_visit(done, total)
                if number + 1 >= MIN_ROUNDS and self._precise(visits, failures, protocol):
                    break
        return [
            summarise(found, reference)
            if found and len(failed) < STRIKES
            else (failed or ["it was never run"])[-1]
            for found, failed in zip(calm_rounds(visits), failures, strict=True)
        ]

    def time_kernels(self, kernels: Sequence[Kernel]) -> dict[str, float]:
        """See `Device.time_kernels`; DeviceError if one fails.

        The least of some passes, each divided by how much slower than their reference the
        calibration kernels ran beside it.
        """
        reference = self.reference()
        result: dict[str, float] = {}
        for start in range(0, len(kernels) * KERNEL_PASSES, KERNELS_PER_JOB):
            places = range(start, min(start + KERNELS_PER_JOB, len(kernels) * KERNEL_PASSES))
            chunk = [kernels[place % len(kernels)] for place in places]
            specs = [program_spec(kernel) for kernel in chunk]
            try:
                times, calibration = self._call(time_kernels, specs, self.calibration, KERNEL_MS)
            except _CandidateError as error:
                self._restart()
                raise DeviceError(
                    f"a kernel of {chunk[0].symbol} to {chunk[-1].symbol} does not run: {error}",
                    hint=f"delete {chunk[0].path.parent}, so that they are compiled anew",
                ) from None
            for kernel, seconds in zip(chunk, times, strict=True):
                normal_ms = seconds * 1e3 / max(1.0, calibration / reference)
                result[kernel.digest] = min(normal_ms, result.get(kernel.digest, normal_ms))
        return result

    def reference(self) -> float:
        """Seconds that the calibration kernels take undisturbed; DeviceError if they fail."""
        if self.reference_s is None:
            self.reference_s = float(self._calibrate(reference_time, self.calibration))
        return self.reference_s

    def visit_reference(self) -> float:
        """Seconds that what visits are normalised by takes undisturbed."""
        if self.yardstick is None:
            return self.reference()
        if self.yardstick_s is None:
            self.yardstick_s = float(self._calibrate(reference_time, self.yardstick))
        return self.yardstick_s

    def _visit(
        self,
        program: Program,
        protocol: Protocol,
        where: tuple[int, int],
        visits: list[Visit],
        failures: list[str],
    ) -> None:
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
            failures.append(str(error))
        else:
            process, number = where
            visits.append(Visit(process, tuple(calls), tuple(calibration), number))

    def check(self) -> None:
        """Run the calibration kernels; DeviceError if even they fail."""
        self._calibrate(time_kernels, [], self.calibration, 1.0)

    def _calibrate(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return self._call(function, *arguments)
        except _CandidateError as error:
            raise DeviceError(
                f"the local device does not run the calibration kernels: {error}",
                hint="see `ofatvm doctor`",
            ) from None

    def _precise(
        self, visits: list[list[Visit]], failures: list[list[str]], protocol: Protocol
    ) -> bool:
        """Whether every program of a one-process protocol is known well enough to stop early."""
        if protocol.processes > 1:
            return False
        fine = [v for v, f in zip(visits, failures, strict=True) if len(f) < STRIKES and v]
        return all(
            len(found) >= MIN_ROUNDS
            and summarise(found, self.visit_reference()).half_width <= protocol.half_width
            for found in fine
        )

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self._pool is None:
            self._pool = child_pool(initialise, self.threads, timeout_s=VISIT_TIMEOUT_S)
        try:
            # The child keeps the time itself. This ends a child that cannot even do that.
            return self._pool.submit(function, *arguments).result(VISIT_TIMEOUT_S + START_S)
        except TimeoutError:
            raise _CandidateError(f"took longer than {VISIT_TIMEOUT_S:.0f} s") from None
        except (ChildProcessError, EOFError, struct.error, pickle.UnpicklingError):
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

    def _restart(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


def _open_lock(path: Path) -> int:
    try:
        # Without O_CREAT, which Linux refuses for another user's file in a shared folder.
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)


class _CandidateError(Exception):
    """A program or kernel failed; whether it or the device is to blame is still open."""


def program_spec(program: Program | Kernel) -> Spec:
    """A program, or the program of a kernel alone, as the child process gets it."""
    return str(program.path), program.sizes
