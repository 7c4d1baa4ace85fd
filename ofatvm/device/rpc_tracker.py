"""TVM's tracker: asking it, with a limit to every wait, and running one (`python -m ...`)."""

from __future__ import annotations

import contextlib
import json
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ofatvm.device.rpc_board import (
    TRACKER_MAGIC,
    die_with_parent,
    is_loopback,
    prepare_runtime,
    receive,
)
from ofatvm.errors import DeviceError

REQUEST, SUMMARY = 4, 6
ANSWER_S = 5.0
LOOK_S = 0.1
LONGEST = 1 << 24


@dataclass(frozen=True, slots=True)
class Boards:
    """How many boards of a key there are, how many are free, how many clients wait."""

    key: str
    total: int
    free: int
    waiting: int


def boards_of(tracker: tuple[str, int]) -> list[Boards]:
    """Every key a tracker knows, with its boards; DeviceError if there is no tracker."""
    with _connection(tracker) as connection:
        answer = _ask(connection, [SUMMARY])
    try:
        keys = [server["key"].partition(":")[2] for server in answer[1]["server_info"]]
        queues = {
            str(key): (int(queue["free"]), int(queue["pending"]))
            for key, queue in answer[1]["queue_info"].items()
        }
    except (TypeError, KeyError, IndexError, ValueError, AttributeError, OverflowError):
        raise _no_tracker(tracker, "it answers nonsense") from None
    names = sorted({*keys, *(key for key, (_, waiting) in queues.items() if waiting)})
    return [Boards(name, keys.count(name), *queues.get(name, (0, 0))) for name in names]


def request_board(
    tracker: tuple[str, int], key: str, until: float, stopped: Callable[[], bool]
) -> tuple[str, int, str] | None:
    """Host, port and one-time key of a free board; None if none was free until then, or stopped.

    `until` is a moment of `time.monotonic()`. DeviceError if there is no tracker.
    """
    with _connection(tracker, min(ANSWER_S, until - time.monotonic())) as connection:
        _send(connection, [REQUEST, key, "", 1])
        while not select.select([connection], [], [], LOOK_S)[0]:
            if stopped() or time.monotonic() > until:
                return None
        answer = _answer(connection)
    try:
        _, (host, port, match_key) = answer
        found = str(host), int(port), str(match_key)
    except (TypeError, ValueError, OverflowError):
        raise _no_tracker(tracker, "it answers nonsense") from None
    return (reached_by(found[0], tracker[0]), *found[1:])


def reached_by(board: str, tracker: str) -> str:
    """The host of a board as its tracker's clients reach it.

    A tracker that runs on the board itself sees it on its own loopback.
    """
    return tracker if is_loopback(board) and not is_loopback(tracker) else board


@contextlib.contextmanager
def _connection(tracker: tuple[str, int], limit_s: float | None = None) -> Any:
    """A connection that has introduced itself; whatever fails within it is a DeviceError."""
    try:
        limit_s = ANSWER_S if limit_s is None else max(0.1, limit_s)
        with socket.create_connection(tracker, timeout=limit_s) as connection:
            magic = struct.pack("<i", TRACKER_MAGIC)
            connection.sendall(magic)
            if receive(connection, 4, time.monotonic() + limit_s) != magic:
                raise _no_tracker(tracker, "something else listens there")
            yield connection
    except TimeoutError:
        raise _no_tracker(tracker, "it does not answer") from None
    except OSError as error:
        raise _no_tracker(tracker, (error.strerror or str(error)).lower()) from None
    except UnicodeError:
        raise _no_tracker(tracker, "there is no such host") from None
    except ValueError:
        raise _no_tracker(tracker, "it answers nonsense") from None


def _ask(connection: socket.socket, question: Any) -> Any:
    _send(connection, question)
    return _answer(connection)


def _send(connection: socket.socket, question: Any) -> None:
    text = json.dumps(question).encode()
    connection.sendall(struct.pack("<i", len(text)) + text)


def _answer(connection: socket.socket) -> Any:
    until = time.monotonic() + ANSWER_S
    length = struct.unpack("<i", receive(connection, 4, until))[0]
    if not 0 < length < LONGEST:
        raise ValueError("not a tracker's answer")
    try:
        return json.loads(receive(connection, length, until))
    except (RecursionError, UnicodeDecodeError):
        raise ValueError("not a tracker's answer") from None


def _no_tracker(tracker: tuple[str, int], reason: str) -> DeviceError:
    host, port = tracker
    return DeviceError(
        f"no tracker at {host}:{port}: {reason}",
        hint="start one: ofatvm devices serve --tracker-here --key KEY, or open the ssh tunnel",
    )


def main(host: str, port: int, parent: int) -> None:
    """Be a tracker until a signal ends this process."""
    die_with_parent(parent)
    prepare_runtime(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from tvm.rpc.tracker import PopenTrackerServerState

    PopenTrackerServerState(host, port, port + 1, silent=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
