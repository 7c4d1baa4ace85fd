"""The process of the Relay environment: answers calls of functions until the other end hangs up."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve the connection whose descriptor is the first argument; only ofatvm's process has it.

    It receives a function and arguments, and sends ("value", result) or ("error", the error's type
    and text). What TVM prints goes to stderr, which the parent closed unless it debugs.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ["TOPHUB_LOCATION"] = "NONE"  # no tuned logs are downloaded
    with contextlib.suppress(EOFError, OSError), Connection(int(sys.argv[1])) as connection:
        while True:
            function, arguments = connection.recv()
            connection.send(_answer(function, arguments))


def _answer(function: Any, arguments: Any) -> tuple[str, Any]:
    try:
        return "value", function(*arguments)
    # Whatever TVM or a candidate raises is the caller's to judge.
    except Exception as error:
        return "error", (type(error).__name__, str(error))


if __name__ == "__main__":
    main()
