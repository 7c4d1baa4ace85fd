"""A contestant's process in the environment of TVM 0.19, with what the race needs of a process."""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

HERE = Path(__file__).resolve().parent


class RelayProcess:
    """It answers `contestants.serve`'s commands on a connection."""

    def __init__(self, name: str, threads: int, connection: Connection) -> None:
        """Start it; the connection stays the caller's, too."""
        from ofatvm.compiler.relay_env import relay_python

        environment = os.environ | {"PYTHONPATH": f"{HERE.parent}:{HERE}"}
        words = [__file__, str(connection.fileno()), name, str(threads)]
        self._process = subprocess.Popen(
            [str(relay_python()), *words], pass_fds=(connection.fileno(),), env=environment
        )

    @property
    def exitcode(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for its end."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def terminate(self) -> None:
        """End it."""
        self._process.terminate()


if __name__ == "__main__":
    from contestants import serve

    serve(Connection(int(sys.argv[1])), sys.argv[2], int(sys.argv[3]))
