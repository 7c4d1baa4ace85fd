"""The board's side of RPC: a server that no candidate, client or tracker can bring down.

This file needs apache-tvm and numpy, and nothing else of ofatvm: it can be copied to a board and
run there by itself. It speaks TVM's protocol, so that TVM's own clients and trackers work with it.

Three kinds of processes, each started by fork from the one before, after TVM was loaded once:

    supervisor   holds the listening socket; ends and replaces an agent that died or fell silent
    agent        tells the tracker about the board, shakes hands with clients; one thread, no wait
                 without a limit; runs no candidate's code
    session      what one client has loaded and runs; it is ended when its client has gone, when
                 its time is over, or when it crashes, and the agent then offers the board anew

How the last sessions ended can be asked for (`ofatvm.board.describe`), so that a client whose
connection broke knows whether its candidate was to blame.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import platform
import random
import resource
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any, NoReturn

MAGIC, MISMATCH, TRACKER_MAGIC = 0xFF271, 0xFF271 + 2, 0x2F271
SUCCESS, PUT, UPDATE_INFO, PENDING_KEYS = 0, 3, 5, 7
LONGEST_KEY = 512
MOST_CALLERS = 64
HANDSHAKE_S = 2.0
TICK_S = 0.2
TRACKER_S = 1.0
EVERY_ADDRESS = ("0.0.0.0", "::")
RETRY_S = 1.0
MISSED_S = 5.0
PING_S = 2.0
UNUSED_S = 6.0
GONE_S = 2.0
IDLE_S = 2.0
SILENT_S = 3.5
REMEMBERED = 32
MEMORY_SHARE = 0.75
GARBLED = 3
PR_SET_PDEATHSIG = 1
POOL = 1 << 20
FOLDER_PREFIX = "ofatvm-board-"


@dataclass(frozen=True, slots=True)
class Options:
    """What a board is called, where its tracker is, where it listens."""

    key: str
    tracker: tuple[str, int]
    bind: str = "127.0.0.1"
    port: int = 0
    public_port: int = 0
    threads: int = 0

    @property
    def thread_count(self) -> int:
        """The threads of TVM's pool: every core, unless some other number was asked for."""
        return self.threads or len(os.sched_getaffinity(0))


def serve(options: Options, *, parent: int = 0) -> NoReturn:
    """Be the supervisor until a signal ends this process; prints a line per event.

    With `parent`, end when that process has ended.
    """
    die_with_parent(parent)
    prepare_runtime(options.thread_count)
    sweep()
    listener = listen(options)
    port = listener.getsockname()[1]
    say(f"serving {options.key} on {options.bind}:{port} with {options.thread_count} threads")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    agent = 0
    try:
        while True:
            agent, pulse = start_agent(options, listener)
            reason = watch(agent, pulse)
            os.close(pulse)
            end(agent)
            sweep()
            say(f"the agent {reason}; it is started again")
            time.sleep(TICK_S)
    except KeyboardInterrupt:
        sys.exit(0)
    finally:
        if agent:
            end(agent)


def listen(options: Options) -> socket.socket:
    """The port that clients come to; ends the process if the address cannot be had."""
    family = socket.AF_INET6 if ":" in options.bind else socket.AF_INET
    where = (options.bind, options.port)
    try:
        return socket.create_server(where, family=family, backlog=MOST_CALLERS)
    except OSError as error:
        sys.exit(f"cannot listen on {options.bind}, port {options.port}: {error}")


def start_agent(options: Options, listener: socket.socket) -> tuple[int, int]:
    """Fork an agent; its process id, and the pipe that it writes its pulse to."""
    pulse, beat = os.pipe()
    supervisor = os.getpid()
    agent = os.fork()
    if agent:
        os.close(beat)
        return agent, pulse
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        die_with_parent(supervisor)
        os.close(pulse)
        Agent(options, listener, beat).run()
    except Exception as error:  # whatever it is: the supervisor starts another one
        say(f"the agent failed: {type(error).__name__}: {error}")
    finally:
        os._exit(1)


def watch(agent: int, pulse: int) -> str:
    """Wait until an agent has died or fallen silent; says which."""
    while True:
        ready, _, _ = select.select([pulse], [], [], SILENT_S)
        if not ready:
            return f"was silent for {SILENT_S:g} s"
        if not os.read(pulse, 4096):
            return "died"


def end(process: int) -> None:
    """Kill a child process and wait for its end."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def sweep() -> None:
    """Remove what sessions of agents that were killed left in the temporary folder."""
    for name in os.listdir(tempfile.gettempdir()):
        agent = name.removeprefix(FOLDER_PREFIX).partition("-")[0]
        if name.startswith(FOLDER_PREFIX) and not os.path.exists(f"/proc/{agent}"):
            shutil.rmtree(os.path.join(tempfile.gettempdir(), name), ignore_errors=True)


@dataclass(slots=True)
class Caller:
    """A client that has not yet said all of its key."""

    connection: socket.socket
    since: float
    said: bytearray = field(default_factory=bytearray)

    def listen(self) -> str | None:
        """What the client calls for once it is known whole; OSError if it talks nonsense."""
        more = self.connection.recv(self.missing())
        if not more:
            raise OSError("closed")
        self.said += more
        if self.missing():
            return None
        return self.said[8:].decode("utf-8", "replace")

    def missing(self) -> int:
        """How many bytes are missing; OSError if those that are there cannot be a client's."""
        if len(self.said) < 8:
            return 8 - len(self.said)
        magic, length = struct.unpack("<ii", self.said[:8])
        if magic != MAGIC or not 0 < length <= LONGEST_KEY:
            raise OSError("not a client")
        return 8 + length - len(self.said)


@dataclass(slots=True)
class Session:
    """A session's process, its client's connection, and when it was last seen to do something."""

    process: int
    connection: socket.socket
    key: str
    folder: str
    ends_at: float
    gone_at: float = 0.0
    ticks: int = 0
    active_at: float = 0.0
    idle: bool = False


class Agent:
    """Offers the board to the tracker, answers callers, looks after the one session."""

    def __init__(self, options: Options, listener: socket.socket, beat: int) -> None:
        """Callers come in on `listener`; the pulse goes out on `beat`."""
        self.options = options
        self.listener = listener
        self.beat = beat
        self.name = f"{random.getrandbits(64):016x}"
        self.tracker: socket.socket | None = None
        self.match_key = ""
        self.callers: list[Caller] = []
        self.session: Session | None = None
        self.ends: dict[str, str] = {}
        self.missed_since = 0.0
        self.missed = False
        self.retry_at = 0.0
        self.ping_at = 0.0
        self.unused_since = 0.0

    def run(self) -> NoReturn:
        """Go round for ever; nothing in here waits longer than a second or two."""
        self.listener.setblocking(False)
        while True:
            os.write(self.beat, b".")
            self.attend_tracker()
            self.attend_session()
            sockets = [self.listener, *(caller.connection for caller in self.callers)]
            ready, _, _ = select.select(sockets, [], [], TICK_S)
            if self.listener in ready:
                self.accept()
            for caller in list(self.callers):
                if caller.connection in ready:
                    self.hear(caller)
                elif time.monotonic() - caller.since > HANDSHAKE_S:
                    self.refuse(caller)

    def accept(self) -> None:
        """Take every waiting caller; the longest-waiting ones make room."""
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                connection.setblocking(False)
                self.callers.append(Caller(connection, time.monotonic()))
                if len(self.callers) > MOST_CALLERS:
                    self.refuse(self.callers[0])

    def refuse(self, caller: Caller) -> None:
        """Hang up."""
        self.callers.remove(caller)
        caller.connection.close()

    def hear(self, caller: Caller) -> None:
        """Read what a caller says; begin its session if it has the key to the board."""
        try:
            wanted = caller.listen()
            if wanted is None:
                return
            key, *words = wanted.split() or [""]
            if self.session or not self.match_key or key != f"client:{self.match_key}":
                caller.connection.send(struct.pack("<i", MISMATCH))
                raise OSError("wrong key")
        except BlockingIOError:
            return
        except OSError:
            self.refuse(caller)
            return
        self.callers.remove(caller)
        self.begin(caller.connection, words)

    def begin(self, connection: socket.socket, words: list[str]) -> None:
        """Start the session of a client that has shaken hands."""
        limit_s = float("inf")
        for word in words:
            with contextlib.suppress(ValueError):
                limit_s = float(word.removeprefix("-timeout=")) or limit_s
        folder = tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-")
        key, self.match_key = self.match_key, ""
        connection.setblocking(True)
        agent = os.getpid()
        process = os.fork()
        if process == 0:
            run_session(connection, folder, agent, self)
        now = time.monotonic()
        self.session = Session(process, connection, key, folder, now + limit_s, active_at=now)

    def attend_session(self) -> None:
        """End the session when it is over, and offer the board again."""
        session, now = self.session, time.monotonic()
        if session is None:
            return
        how = ""
        process, status = os.waitpid(session.process, os.WNOHANG)
        if process:
            idle = session.idle or now - session.active_at > IDLE_S
            how = described_end(status, idle=idle)
        elif now > session.ends_at:
            how = "expired"
        elif session.gone_at and now > session.gone_at + GONE_S:
            how = "hung"
        elif not session.gone_at:
            ticks = processor_ticks(session.process)
            if ticks != session.ticks:
                session.ticks, session.active_at = ticks, now
            if hung_up(session.connection):
                session.gone_at = now
                session.idle = now - session.active_at > IDLE_S
        if not how:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(session.process, signal.SIGKILL)
        if not process:
            end(session.process)
        session.connection.close()
        shutil.rmtree(session.folder, ignore_errors=True)
        self.ends[session.key] = how
        while len(self.ends) > REMEMBERED:
            self.ends.pop(next(iter(self.ends)))
        self.session = None
        if how not in ("closed", "idle"):
            say(f"a session ended: {how}")

    def attend_tracker(self) -> None:
        """Keep the tracker told: offer the free board, and offer it anew if nobody came."""
        now = time.monotonic()
        if self.session or now < self.retry_at:
            return
        try:
            if self.tracker is None:
                self.connect_tracker()
            if not self.match_key:
                self.match_key = f"{self.options.key}:{random.random()}"
                self.offer()
            elif now >= self.ping_at:
                self.ping_at = now + PING_S
                if self.match_key in self.ask([PENDING_KEYS]):
                    self.unused_since = now
                elif now - self.unused_since > UNUSED_S:
                    self.match_key = ""
        except (OSError, ValueError) as error:
            if self.tracker is not None:
                self.tracker.close()
            self.tracker, self.match_key = None, ""
            self.retry_at = time.monotonic() + RETRY_S
            self.miss_tracker(error)
        else:
            self.find_tracker()

    def miss_tracker(self, error: OSError | ValueError) -> None:
        """Say once that the tracker is gone, when it has been for some seconds."""
        now = time.monotonic()
        self.missed_since = self.missed_since or now
        if not self.missed and now - self.missed_since > MISSED_S:
            self.missed = True
            reason = getattr(error, "strerror", None) or error
            say(
                f"{self.tracker_name} does not answer ({str(reason).lower()}): nobody can reach "
                "this board until it does; it is asked again every second"
            )

    def find_tracker(self) -> None:
        """Say that a tracker that was missed is there."""
        self.missed_since = 0.0
        if self.missed:
            self.missed = False
            say(f"{self.tracker_name} answers: this board can be reached")

    @property
    def tracker_name(self) -> str:
        """The tracker, for a line about it."""
        host, port = self.options.tracker
        return f"the tracker at {host}:{port}"

    def connect_tracker(self) -> None:
        """Introduce the board; OSError or ValueError if the tracker does not answer as one."""
        self.tracker = socket.create_connection(self.options.tracker, timeout=TRACKER_S)
        self.tracker.sendall(struct.pack("<i", TRACKER_MAGIC))
        if struct.unpack("<i", receive(self.tracker, 4))[0] != TRACKER_MAGIC:
            raise ValueError("not a tracker")
        address = (None, self.public_port)
        self.ask([UPDATE_INFO, {"key": f"server:{self.options.key}", "addr": address}])

    def offer(self) -> None:
        """Tell the tracker that the board is free."""
        self.ask([PUT, self.options.key, (self.public_port, self.match_key), None])
        self.unused_since = time.monotonic()
        self.ping_at = self.unused_since + PING_S

    @property
    def public_port(self) -> int:
        """The port that clients must use: another one where a tunnel lies in between."""
        return self.options.public_port or int(self.listener.getsockname()[1])

    def ask(self, question: Any) -> Any:
        """The tracker's answer; OSError or ValueError if it is none."""
        assert self.tracker is not None
        text = json.dumps(question).encode()
        self.tracker.sendall(struct.pack("<i", len(text)) + text)
        length = struct.unpack("<i", receive(self.tracker, 4))[0]
        if not 0 < length < 1 << 20:
            raise ValueError("not a tracker")
        return json.loads(receive(self.tracker, length))

    def describe(self) -> dict[str, Any]:
        """What a client may want to know of the board, and how the last sessions ended."""
        return {
            **versions(),
            "machine": platform.machine(),
            "cpus": len(os.sched_getaffinity(0)),
            "threads": self.options.thread_count,
            "agent": self.name,
            "ends": self.ends,
        }


def run_session(connection: socket.socket, folder: str, agent: int, board: Agent) -> NoReturn:
    """Serve one client in this process, a fresh fork of the agent, and end it."""
    code = 1
    try:
        os.setsid()
        die_with_parent(agent)
        mute()
        kept = connection.fileno()
        os.closerange(3, kept)
        os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX") if kept < 4096 else kept + 2)
        os.chdir(folder)
        limit = int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * MEMORY_SHARE)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        register(folder, board)
        key = f"server:{board.options.key}".encode()
        connection.sendall(struct.pack("<ii", MAGIC, len(key)) + key)
        connection.settimeout(None)
        code = GARBLED
        from tvm_ffi import get_global_func

        get_global_func("rpc.ServerLoop")(connection.detach())
        code = 0
    finally:
        os._exit(code)


def register(folder: str, board: Agent) -> None:
    """Make known what TVM's clients call, and what ofatvm's do."""
    import tvm
    from tvm_ffi import register_global_func

    def work_path(name: str) -> str:
        return os.path.join(folder, os.path.basename(name))

    numbers = random_numbers()

    def fill(tensor: Any, start: int) -> None:
        import numpy as np

        size = tensor.shape[0]
        places = np.arange(start, start + min(size, POOL)) % POOL
        tensor.copyfrom(np.resize(numbers[places], size))

    for name, function in {
        "tvm.rpc.server.workpath": work_path,
        "tvm.rpc.server.load_module": lambda name: tvm.runtime.load_module(work_path(name)),
        "ofatvm.board.describe": lambda: json.dumps(board.describe()),
        "ofatvm.board.fill": fill,
    }.items():
        register_global_func(name, function, override=True)


def random_numbers() -> Any:
    """Small random numbers, the same on every board."""
    import numpy as np

    numbers = np.random.default_rng(0).random(POOL, dtype=np.float32)
    return (numbers - np.float32(0.5)) * np.float32(0.2)


def prepare_runtime(threads: int) -> None:
    """Load TVM's runtime alone: no compiler, and no torch even where there is one."""
    os.environ["TVM_NUM_THREADS"] = str(threads)
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["TVM_USE_RUNTIME_LIB"] = "1"
    # tvm_ffi imports torch only if there is one, which takes seconds and starts threads.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    import tvm  # noqa: F401  (loading it is the purpose)


def versions() -> dict[str, str]:
    """Versions of TVM, its foreign function interface and Python."""
    from importlib import metadata

    return {
        "tvm": metadata.version("apache-tvm"),
        "ffi": metadata.version("apache-tvm-ffi"),
        "python": platform.python_version(),
    }


def described_end(status: int, *, idle: bool) -> str:
    """How a process ended, from what waiting for it gave."""
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return "idle" if idle else "closed"
    if code == GARBLED:
        return "garbled"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"crashed with {signal.Signals(-code).name}"
    return f"crashed with exit code {code}"


def hung_up(connection: socket.socket) -> bool:
    """Whether the other end has closed, whatever is still to be read."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


def processor_ticks(process: int) -> int:
    """Clock ticks that a process has computed for."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    except (OSError, IndexError, ValueError):
        return -1


def receive(connection: socket.socket, count: int, until: float | None = None) -> bytes:
    """So many bytes; OSError if the other end closes or is silent for a while.

    All of them must have come by the moment `until` of `time.monotonic()`: else TimeoutError.
    """
    parts = bytearray()
    while len(parts) < count:
        if until is not None:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("it drips")
            connection.settimeout(left_s)
        part = connection.recv(count - len(parts))
        if not part:
            raise OSError("connection closed")
        parts += part
    return bytes(parts)


def die_with_parent(parent: int) -> None:
    """Be killed when the parent ends, however it ends (Linux); 0 is no parent."""
    if parent:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def mute() -> None:
    """Let nothing that a candidate prints reach a screen."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.close(null)


def say(text: str) -> None:
    """Print a line at once; whoever reads it may be gone."""
    with contextlib.suppress(OSError, ValueError):
        print(text, flush=True)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine and nothing but it."""
    import ipaddress

    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind_for(tracker: tuple[str, int]) -> str:
    """The address to listen on that a tracker's clients come to: this machine's, seen from there.

    It is loopback for a tracker on loopback, and every address for one here that listens at every
    address, and where the way there is unknown.
    """
    host, port = tracker
    if host in EVERY_ADDRESS:
        return host
    if is_loopback(host):
        return "::1" if ":" in host else "127.0.0.1"
    with contextlib.suppress(OSError, UnicodeError):
        for family, kind, _, _, where in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
            # Nothing is sent: the system only looks which way it would go.
            with contextlib.suppress(OSError), socket.socket(family, kind) as way:
                way.connect(where)
                return str(way.getsockname()[0])
    return "0.0.0.0"


def parsed_arguments(words: list[str] | None = None) -> tuple[Options, int]:
    """Options from the command line, and the parent to end with."""
    parser = argparse.ArgumentParser(description="Offer this machine to a TVM RPC tracker.")
    parser.add_argument("--key", required=True, help="what boards of this kind are called")
    parser.add_argument("--tracker", default="127.0.0.1:9190", help="HOST:PORT of the tracker")
    parser.add_argument("--bind", help="address to listen on; if left out, where the tracker is")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0: any free one")
    parser.add_argument("--public-port", type=int, default=0, help="the tunnel's port, if another")
    parser.add_argument("--threads", type=int, default=0, help="threads of TVM; 0: every core")
    parser.add_argument("--allow-network", action="store_true", help="more than loopback")
    parser.add_argument("--parent", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    host, colon, port = given.tracker.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        parser.error(f"--tracker must be HOST:PORT, got {given.tracker!r}")
    tracker = (host, int(port))
    bind = given.bind or bind_for(tracker)
    if not given.allow_network and not (is_loopback(host) and is_loopback(bind)):
        parser.error("whoever connects can run anything: use `ssh -L`, or --allow-network")
    options = Options(
        given.key, tracker, bind, given.port, given.public_port, max(0, given.threads)
    )
    return options, given.parent


if __name__ == "__main__":
    board_options, parent_process = parsed_arguments()
    serve(board_options, parent=parent_process)
