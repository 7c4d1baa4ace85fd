"""A tracker and boards in processes of their own on loopback, for tests of RPC."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import psutil

from ofatvm.device import rpc_board
from ofatvm.device.rpc_address import RpcAddress
from ofatvm.device.rpc_tracker import boards_of
from ofatvm.errors import DeviceError

START_S = 120.0
KEY = "board"


def free_port() -> int:
    """A port that is free, of those that the system gives nobody by itself."""
    while True:
        port = random.randint(15_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def until(condition: Callable[[], bool], limit_s: float = START_S) -> None:
    """Wait for something that must come."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


class Stage:
    """A tracker, and boards that `ofatvm devices serve` or TVM itself would start."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host, self.port = host, free_port()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.tracker = self.start_tracker()
        until(self.tracker_answers)

    @property
    def address(self) -> RpcAddress:
        return RpcAddress(self.host, self.port, KEY)

    def start(self, *words: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, *(str(word) for word in words)]
        process = subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL)
        self.processes.append(process)
        return process

    def start_tracker(self) -> subprocess.Popen[bytes]:
        module = "ofatvm.device.rpc_tracker"
        return self.start("-m", module, self.host, self.port, os.getpid())

    def start_board(self, *words: object, key: str = KEY) -> subprocess.Popen[bytes]:
        where = ("--tracker", f"{self.host}:{self.port}", "--parent", os.getpid())
        return self.start(rpc_board.__file__, "--key", key, *where, *words)

    def start_plain_board(self, key: str = KEY) -> subprocess.Popen[bytes]:
        """TVM's own server, with nothing of ours around it."""
        port = free_port()
        host = ("--host", "127.0.0.1", "--port", port, "--port-end", port + 1)
        tracker = ("--tracker", f"127.0.0.1:{self.port}", "--key", key, "--silent")
        code = "import sys; sys.modules['torch'] = None; import runpy; "
        code += "runpy.run_module('tvm.exec.rpc_server', run_name='__main__')"
        return self.start("-c", code, *host, *tracker)

    def tracker_answers(self) -> bool:
        try:
            boards_of(self.address.tracker)
        except DeviceError:
            return False
        return True

    def free(self, key: str = KEY) -> int:
        """How many boards the tracker has to give."""
        with contextlib.suppress(DeviceError):
            return sum(
                boards.free for boards in boards_of(self.address.tracker) if boards.key == key
            )
        return 0

    def stop(self) -> None:
        for process in self.processes:
            kill_tree(process)


@contextlib.contextmanager
def staged(boards: int = 1, *words: object, host: str = "127.0.0.1") -> Iterator[Stage]:
    """A tracker and so many boards of one thread, ready to be used."""
    stage = Stage(host)
    try:
        for _ in range(boards):
            stage.start_board("--threads", 1, *words)
        until(lambda: stage.free() == boards)
        yield stage
    finally:
        stage.stop()


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """End a process, and those that it started."""
    for below in below_of(process.pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            below.kill()
    process.kill()
    process.wait()


def below_of(pid: int) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return found


def agent_of(supervisor: subprocess.Popen[bytes]) -> psutil.Process:
    """The process that a board's supervisor looks after."""
    return psutil.Process(supervisor.pid).children()[0]


def stop_tree(process: subprocess.Popen[bytes]) -> None:
    """Freeze a process and those below it, also those that it starts meanwhile."""
    stopped: set[int] = set()
    while running := [
        member
        for member in (psutil.Process(process.pid), *below_of(process.pid))
        if member.pid not in stopped
    ]:
        for member in running:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(signal.SIGSTOP)
            stopped.add(member.pid)


def sessions_here() -> list[psutil.Process]:
    """This process's sessions with boards: children of the fork server."""
    servers = [c for c in psutil.Process().children() if "forkserver" in " ".join(c.cmdline())]
    return [session for server in servers for session in server.children()]


class Relay:
    """A port in front of a board's own, whose connections can be broken in several ways.

    `mode` is "pass", "stall" (both ends stay open and hear nothing more) or "garbage" (whatever
    comes from now on is replaced by random bytes).
    """

    def __init__(self, to: int) -> None:
        self.to = to
        self.mode = "pass"
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.server.getsockname()[1])
        self.open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for connection in (self.server, *self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.server.accept()
                self.open.append(client)
                try:
                    board = socket.create_connection(("127.0.0.1", self.to))
                except OSError:
                    client.close()
                    continue
                self.open.append(board)
                for ends in ((client, board), (board, client)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                while self.mode == "stall":
                    time.sleep(0.05)
                sink.sendall(os.urandom(len(data)) if self.mode == "garbage" else data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
