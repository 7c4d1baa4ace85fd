"""What runs in a session's own process on this side: one connection to a board, and its calls.

TVM's client waits for a board's answers without a limit. So each session has a process that can be
killed, and what must not wait for ever is called through `ofatvm.device.rpc_session`.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import time
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ofatvm.device.children import last_line
from ofatvm.device.rpc_board import POOL, die_with_parent, mute, random_numbers

MOST_MEMORY = 4 << 30
MAX_LOADED = 10
ROUND_TRIPS = 20
_remote: list[Any] = []


def serve(connection: Connection) -> None:
    """Answer calls until the other end hangs up: ("value", it), ("error", line), ("lost", line).

    An "error" is the board's answer, whose connection still works; "lost" is a broken connection.
    """
    die_with_parent(os.getppid())
    mute()
    import_module("ofatvm.device.rpc_preload")  # already there if the fork server did its part
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    with contextlib.suppress(EOFError, OSError):
        while True:
            function, arguments = connection.recv()
            connection.send(_answer(function, arguments))


def _answer(function: Any, arguments: Sequence[Any]) -> tuple[str, Any]:
    try:
        return "value", function(*arguments)
    # A board hands back whatever a candidate raised, as whatever type has that name here.
    except Exception as error:
        return ("error" if _answers() else "lost"), last_line(error)


def _answers() -> bool:
    """Whether the board still answers a call that has nothing to do with any candidate."""
    try:
        return bool(_remote) and _remote[0].get_function("runtime.NumThreads")() > 0
    except Exception:  # whatever it is, the answer is no
        return False


def ping() -> int:
    """Show that this process is up; its process id."""
    return os.getpid()


def open_session(host: str, port: int, key: str, limit_s: float, threads: int) -> dict[str, Any]:
    """Connect to a board, which ends the session after `limit_s`; what the board says of itself.

    From then on this process loads programs onto the board. A plain TVM server says nothing of
    itself but `threads`, the size of its pool after it was asked for `threads`, if that is not 0.
    """
    from tvm import rpc

    from ofatvm.device import loaded, visit

    remote = rpc.connect(host, port, key, session_timeout=limit_s)
    _remote[:] = [remote]
    described: dict[str, Any] = {}
    describe = _function(remote, "ofatvm.board.describe")
    if describe is not None:
        described = json.loads(describe())
    configure = _function(remote, "runtime.config_threadpool")
    if configure is not None and threads:
        configure(1, threads)
    described["threads"] = int(remote.get_function("runtime.NumThreads")())
    visit.MAX_LOADED = MAX_LOADED
    loaded.load_with(partial(load_remote, remote, _function(remote, "ofatvm.board.fill")))
    return described


def load_remote(remote: Any, fill: Any, path: str, sizes: Sequence[int]) -> Any:
    """A program loaded onto the board, on random numbers made there if the board can."""
    from ofatvm.device.loaded import LoadedProgram

    name = f"{time.monotonic_ns()}-{Path(path).name}"
    remote.upload(path, target=name)
    module = remote.load_module(name)
    remote.remove(name)  # the board may have little room, and what is loaded stays loaded
    tensors, start = [], 0
    for size in sizes:
        tensors.append(_random_tensor(remote, fill, size, start % POOL))
        start += size
    return LoadedProgram(module, tuple(tensors), remote.cpu())


def _random_tensor(remote: Any, fill: Any, size: int, start: int) -> Any:
    import numpy as np
    import tvm

    tensor = tvm.runtime.empty((size,), "float32", remote.cpu())
    if fill is not None:
        fill(tensor, start)
    else:
        tensor.copyfrom(np.resize(np.roll(random_numbers(), -start), size))
    return tensor


def remote_session() -> Any:
    """TVM's own session with the board, for jobs that are more than a program's calls."""
    return _remote[0]


def round_trip() -> float:
    """Seconds that a call which does nothing takes: the median of some."""
    nothing = _remote[0].get_function("runtime.NumThreads")
    seconds = []
    for _ in range(ROUND_TRIPS):
        started = time.perf_counter()
        nothing()
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)[ROUND_TRIPS // 2]


def _function(remote: Any, name: str) -> Any:
    """A function of the board, or None if it has none of that name."""
    try:
        return remote.get_function(name)
    except (AttributeError, ValueError, RuntimeError):
        return None
