"""`Slot`: one thread's place among the boards of a key, see `rpc_boards`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ofatvm.device.rpc_session import Session

LOOK_S = 0.05


@dataclass(slots=True)
class Slot:
    """A session, the board it is with, and what that board said of itself.

    `since` is when the board was taken, 0 while there is none.
    """

    session: Session | None = None
    board: str = ""
    key: str = ""
    described: dict[str, Any] = field(default_factory=dict)
    since: float = 0.0
    waiting: bool = False

    def call(self, function: Callable[..., Any], *arguments: Any, limit_s: float) -> Any:
        """See `Session.call`."""
        assert self.session is not None
        self.waiting = True
        try:
            return self.session.call(function, *arguments, limit_s=limit_s)
        finally:
            self.waiting = False

    def drop(self) -> None:
        """End the session and give the board back."""
        if self.session is not None:
            self.session.kill()
            self.session, self.since = None, 0.0

    def join(self, thread: threading.Thread) -> None:
        """Wait for the slot's thread, which was told to stop; a call it waits for is broken off."""
        broken = False
        while thread.is_alive():
            thread.join(LOOK_S)
            session = self.session
            if self.waiting and session is not None:
                session.interrupt()
                broken = True
        if broken:
            self.drop()
