"""A slot gives its board back, also when it waits for it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from ofatvm.device.rpc_session import CallError
from ofatvm.device.rpc_slot import Slot


class PretendSession:
    """Calls wait until they are interrupted."""

    def __init__(self) -> None:
        self.interrupted = threading.Event()
        self.killed = 0

    def call(self, function: Any, *arguments: Any, limit_s: float) -> Any:
        assert self.interrupted.wait(60)
        raise CallError("lost", "interrupted")

    def interrupt(self) -> None:
        self.interrupted.set()

    def kill(self) -> None:
        self.killed += 1


def test_a_call_that_is_waited_for_is_broken_off_and_the_board_given_back() -> None:
    session = PretendSession()
    slot = Slot(session=session, board="127.0.0.1:1", since=1.0)  # type: ignore[arg-type]

    def work() -> None:
        with pytest.raises(CallError):
            slot.call(print, limit_s=60.0)

    thread = threading.Thread(target=work)
    thread.start()
    slot.join(thread)
    assert not thread.is_alive()
    assert (session.killed, slot.session, slot.since, slot.waiting) == (1, None, 0.0, False)
    slot.drop()
    assert session.killed == 1
    other = Slot(session=PretendSession())  # type: ignore[arg-type]
    other.join(threading.Thread())
    assert other.session is not None, "whoever waits for nothing keeps its board"
