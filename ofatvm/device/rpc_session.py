"""A session with a board, in a process of its own, whose calls end in time whatever happens."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any, Literal

from ofatvm.device.rpc_child import serve

START_S = 180.0
END_S = 5.0
Trouble = Literal["error", "lost", "timeout"]


class CallError(Exception):
    """A call gave no value.

    "error": the board answered with an error and still answers. "lost": the connection broke, or a
    process at one of its ends died. "timeout": there was no answer in time.
    """

    def __init__(self, trouble: Trouble, text: str) -> None:
        """`text` is one line."""
        super().__init__(text)
        self.trouble = trouble
        self.text = text


class Session:
    """A process that can be killed, with at most one connection to a board; not yet connected."""

    def __init__(self) -> None:
        """Fork the process from one that has TVM loaded; the first takes seconds to load it."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["ofatvm.device.rpc_preload"])
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def call(self, function: Callable[..., Any], *arguments: Any, limit_s: float) -> Any:
        """What the function returns in the process; CallError if that is nothing, or too late."""
        try:
            self._connection.send((function, arguments))
            # The process's end may be seen before its last words: these are looked for first.
            wait([self._connection, self._process.sentinel], max(0.0, limit_s))
            if not self._connection.poll():
                if self._process.is_alive():
                    self.kill()
                    raise CallError("timeout", f"took longer than {limit_s:.3g} s")
                raise EOFError
            kind, value = self._connection.recv()
        except (EOFError, OSError):
            self.kill()
            raise CallError("lost", "the session's process died") from None
        if kind != "value":
            raise CallError(kind, value)
        return value

    def interrupt(self) -> None:
        """Make the call that another thread waits for fail at once."""
        with contextlib.suppress(OSError, ValueError):
            self._process.kill()

    def kill(self) -> None:
        """End the process and with it the connection; harmless if it has ended."""
        with contextlib.suppress(OSError, ValueError):
            self._process.kill()
            self._process.join(END_S)
        with contextlib.suppress(OSError):
            self._connection.close()
