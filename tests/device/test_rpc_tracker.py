"""Asking a tracker that is none, or does not answer."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from ofatvm.device import rpc_tracker
from ofatvm.device.rpc_board import TRACKER_MAGIC
from ofatvm.device.rpc_tracker import boards_of, reached_by, request_board
from ofatvm.errors import DeviceError
from tests.rpc_boards import free_port

MAGIC = struct.pack("<i", TRACKER_MAGIC)


@contextlib.contextmanager
def answering(*answers: bytes) -> Iterator[tuple[str, int]]:
    """A listener that says these things, one after each thing it hears, then waits."""
    done = threading.Event()

    def talk() -> None:
        with contextlib.suppress(OSError), server.accept()[0] as connection:
            for answer in answers:
                connection.recv(1 << 16)
                connection.sendall(answer)
            done.wait(30)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=talk)
        thread.start()
        yield server.getsockname()
        done.set()
    thread.join()


def framed(text: bytes) -> bytes:
    return struct.pack("<i", len(text)) + text


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ((b"HTTP/1.1 400 Bad Request\r\n",), "something else"),
        ((MAGIC, framed(b"[0, 17]")), "nonsense"),
        ((MAGIC, framed(b'[0, {"queue_info": {"a": 3}, "server_info": []}]')), "nonsense"),
        ((MAGIC, framed(b"\xff{")), "nonsense"),
        ((MAGIC, framed(b"[" * 200_000)), "nonsense"),
        (
            (MAGIC, framed(b'[0, {"queue_info": {"a": {"free": Infinity}}, "server_info": []}]')),
            "nonsense",
        ),
        ((MAGIC, struct.pack("<i", -5)), "nonsense"),
        ((MAGIC, struct.pack("<i", 2**31 - 1)), "nonsense"),
        ((), "does not answer"),
        ((MAGIC,), "does not answer"),
    ],
)
def test_what_is_no_tracker_is_a_device_error(
    answers: tuple[bytes, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_tracker, "ANSWER_S", 0.3)
    with answering(*answers) as where, pytest.raises(DeviceError, match=said):
        boards_of(where)


def test_an_answer_that_drips_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_tracker, "ANSWER_S", 0.5)
    done = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError), server.accept()[0] as connection:
            connection.sendall(MAGIC + struct.pack("<i", 1 << 16))
            while not done.wait(0.1):
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip)
        thread.start()
        started = time.monotonic()
        with pytest.raises(DeviceError, match="does not answer"):
            boards_of(server.getsockname())
        assert time.monotonic() - started < 10
        done.set()
    thread.join()


def test_nobody_there() -> None:
    with pytest.raises(DeviceError, match="connection refused") as caught:
        boards_of(("127.0.0.1", free_port()))
    assert "devices serve" in caught.value.hint


def test_boards_are_counted_by_key() -> None:
    summary = (
        b'[0, {"queue_info": {"pi4": {"free": 1, "pending": 2}, "old": {"free": 0, "pending": 0}},'
        b'"server_info": [{"key": "server:pi4"}, {"key": "server:pi4"}, {"key": "server:new"}]}]'
    )
    with answering(MAGIC, framed(summary)) as where:
        assert boards_of(where) == [
            rpc_tracker.Boards("new", 1, 0, 0),
            rpc_tracker.Boards("pi4", 2, 1, 2),
        ]


@pytest.mark.parametrize(
    ("board", "tracker", "reached"),
    [
        ("127.0.0.1", "pi.local", "pi.local"),
        ("::1", "10.0.0.7", "10.0.0.7"),
        ("10.0.0.8", "10.0.0.7", "10.0.0.8"),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("10.0.0.8", "localhost", "10.0.0.8"),
    ],
)
def test_a_board_that_runs_its_own_tracker_is_reached_where_that_is(
    board: str, tracker: str, reached: str
) -> None:
    assert reached_by(board, tracker) == reached


def test_waiting_for_a_board_ends() -> None:
    with answering(MAGIC) as where:
        assert request_board(where, "pi4", time.monotonic() + 0.3, lambda: False) is None
    with answering(MAGIC) as where:
        assert request_board(where, "pi4", time.monotonic() + 99.0, lambda: True) is None
    with answering(MAGIC, framed(b'[0, ["127.0.0.1", 9091, "pi4:0.5"]]')) as where:
        found = request_board(where, "pi4", time.monotonic() + 99.0, lambda: False)
        assert found == ("127.0.0.1", 9091, "pi4:0.5")
    with answering(MAGIC, framed(b'[-1, "no"]')) as where, pytest.raises(DeviceError):
        request_board(where, "pi4", time.monotonic() + 99.0, lambda: False)
