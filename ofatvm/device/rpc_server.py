"""Serving this machine as a board: the server of `rpc_board`, and a tracker, in their processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from ofatvm.device import rpc_board, rpc_tracker
from ofatvm.device.rpc_board import Options
from ofatvm.errors import DeviceError
from ofatvm.events import Event, Notice, ignore

LOOK_S = 0.2
START_S = 120.0
SHORT_S = 10.0
MOST_SHORT_LIVES = 3


class _Child:
    """A process that is started again when it ends; DeviceError if it never lives long."""

    def __init__(
        self, name: str, command: Sequence[str], on_event: Callable[[Event], None]
    ) -> None:
        self.name = name
        self.command = [sys.executable, *command, str(os.getpid())]
        self.on_event = on_event
        self.process: subprocess.Popen[str] | None = None
        self.started = 0.0
        self.short_lives = 0
        self.last_words = ""

    def attend(self) -> None:
        """Start the process if it is not there."""
        if self.process is not None:
            if self.process.poll() is None:
                return
            lived_s = time.monotonic() - self.started
            self.short_lives = self.short_lives + 1 if lived_s < SHORT_S else 0
            if self.short_lives >= MOST_SHORT_LIVES:
                raise DeviceError(
                    f"the {self.name} does not start: {self.last_words or 'no reason'}"
                )
            self.on_event(Notice("warning", f"the {self.name} died; it is started again"))
        self.started = time.monotonic()
        # In a session of its own: Ctrl-C goes to this process, which ends the others in order.
        self.process = subprocess.Popen(
            self.command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        threading.Thread(target=self._listen, args=(self.process.stdout,), daemon=True).start()

    def _listen(self, said: IO[str]) -> None:
        """Hand on what it says, one line at a time; tracebacks say it in their last line."""
        with contextlib.suppress(OSError, ValueError):
            for line in said:
                text = line.strip()
                self.last_words = text or self.last_words
                if text.startswith(("serving ", "the agent ", "a session ", "the tracker ")):
                    missing = text.startswith("the tracker ") and "does not answer" in text
                    self.on_event(Notice("warning" if missing else "info", text))

    def end(self) -> None:
        """Ask the process to end, and make it."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def serve(
    options: Options, *, tracker_here: bool, on_event: Callable[[Event], None] = ignore
) -> None:
    """Serve until interrupted, and keep all processes alive until then and none after."""
    host, port = options.tracker
    children = []
    if tracker_here:
        words = ("-m", rpc_tracker.__name__, host, str(port))
        children.append(_Child("tracker", words, on_event))
    children.append(_Child("board's server", (*board_command(options), "--parent"), on_event))
    try:
        while True:
            for child in children:
                child.attend()
            time.sleep(LOOK_S)
    finally:
        for child in reversed(children):
            child.end()


def board_command(options: Options) -> list[str]:
    """What Python must be given to be the board's server; hosts were checked before."""
    words = {
        "--key": options.key,
        "--tracker": f"{options.tracker[0]}:{options.tracker[1]}",
        "--bind": options.bind,
        "--port": options.port,
        "--public-port": options.public_port,
        "--threads": options.threads,
    }
    arguments = [str(word) for pair in words.items() for word in pair]
    return [str(Path(rpc_board.__file__)), *arguments, "--allow-network"]
