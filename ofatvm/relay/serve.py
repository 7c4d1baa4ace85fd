"""The process of the Relay environment: answers calls of functions until the other end hangs up."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from ofatvm.errors import OfatvmError
from ofatvm.signals import end_with_parent


def main() -> None:
    """Serve the connection whose descriptor and owner's process id are given as arguments.

    It receives a function and arguments, and sends ("value", result) or what was raised: whose
    fault it is ("ours" if ofatvm says so itself, "room" for disk and memory, "packages" for what
    cannot be imported, "error" for all else), and the error's type, text and hint. What TVM prints
    goes to stderr.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(int(sys.argv[2]))
    os.environ["TOPHUB_LOCATION"] = "NONE"  # no tuned logs are downloaded
    with contextlib.suppress(EOFError, OSError), Connection(int(sys.argv[1])) as connection:
        while True:
            connection.send(_answer(connection))


def begin(initialise: Callable[[int], None] | None, threads: int) -> None:
    """The first call in a process: TVM is there, and what all later calls need is done."""
    import tvm  # noqa: F401

    if initialise is not None:
        initialise(threads)


def _answer(connection: Connection) -> tuple[str, Any]:
    """What comes of the next call; reading it imports what it needs."""
    message = connection.recv_bytes()
    try:
        function, arguments = pickle.loads(message)
        return "value", function(*arguments)
    except OfatvmError as error:
        return "ours", (type(error).__name__, error.message, error.hint)
    except ImportError as error:
        return "packages", (type(error).__name__, str(error), "")
    except (OSError, MemoryError) as error:
        return "room", (type(error).__name__, str(error), "")
    # Whatever else TVM or a candidate raises is the caller's to judge.
    except Exception as error:
        return "error", (type(error).__name__, str(error), "")


if __name__ == "__main__":
    main()
