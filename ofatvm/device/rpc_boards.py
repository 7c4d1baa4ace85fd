"""Work spread over all boards that share one key, with what goes wrong put down to its cause.

Every board has a *slot*, a thread that holds at most one session and takes job after job from one
queue; a slot whose board is lost puts its job back and looks for another board, so that the work
goes on while one board lives. Which board a slot gets is the tracker's choice.

Only a board's explicit answer, or a board that is seen to be well again, puts a failure down to the
job. After a connection broke or a call took too long, the slot takes the board anew, runs the
calibration kernels on it and asks how the session ended (our own server knows; of TVM's plain one
its being well must do). If another board comes first, the job is put back, and is to blame if it
breaks a session there, too, while boards are well. A job whose session ended for no reason of its
own is put back; when that happens again and again, the run stops rather than blame anyone.

`timeout_s` is how long boards may be silent: half of it for a call, the rest for finding a board
that lives. When none does, DeviceError is raised.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from types import TracebackType
from typing import Any

from ofatvm.device.rpc_address import RpcAddress, require_loopback
from ofatvm.device.rpc_child import open_session, ping
from ofatvm.device.rpc_session import START_S, CallError, Session
from ofatvm.device.rpc_slot import Slot
from ofatvm.device.rpc_tracker import boards_of, request_board
from ofatvm.device.visit import Spec, time_kernels
from ofatvm.errors import DeviceError
from ofatvm.events import Event, Notice, ignore
from ofatvm.text import counted

TIMEOUT_S = 120.0
LOOK_S = 0.05
PAUSE_S = 0.3
MOST_LOSSES = 5
RETURN_S = 4.0
"""How long a board that lost a session may take to be offered again before others are asked."""
OWN_ENDS = ("closed", "hung", "expired")
Job = tuple[Callable[..., Any], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Done:
    """What a job gave, and the board it ran on."""

    value: Any
    board: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a job failed on a board that is well, in one line."""

    text: str


class BoardPool:
    """All boards of one key; a context manager. See the module's text."""

    def __init__(
        self,
        address: RpcAddress,
        threads: int,
        calibration: Sequence[Spec],
        *,
        check: Job | None = None,
        timeout_s: float = TIMEOUT_S,
        allow_network: bool = False,
        on_event: Callable[[Event], None] = ignore,
    ) -> None:
        """`calibration`: programs that every board which is well can run, unless `check` says else.

        `threads` is 0 where it does not matter how many threads a board runs.
        """
        self.address = address
        self.threads = threads
        self.calibration = list(calibration)
        self.check = check
        self.timeout_s = timeout_s
        self.allow_network = allow_network
        self.on_event = on_event
        self.losses = 0
        self._slots: list[Slot] = []
        self._proved: set[str] = set()
        self._warned: set[str] = set()
        self._alive_at = 0.0
        self._trouble = ""
        self._fatal: BaseException | None = None
        self._stop = threading.Event()
        self._pending: queue.SimpleQueue[tuple[int, Job]] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[int, Done | Failed]] = queue.SimpleQueue()
        self._lost: dict[int, int] = {}
        self._broke: dict[int, set[str]] = {}

    def __enter__(self) -> BoardPool:
        """Look whether there is a tracker that knows such boards; DeviceError if not."""
        require_boards(self.address)
        first = Session()
        try:
            first.call(ping, limit_s=START_S)
        except CallError as error:
            raise DeviceError(
                f"no process for RPC starts here: {error}", hint="see `ofatvm doctor`"
            ) from None
        finally:
            first.kill()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the boards back and end every process."""
        self.release()

    def release(self) -> None:
        """Give the boards back, so that others can have them; the next run takes them anew."""
        for slot in self._slots:
            slot.drop()

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Done | Failed]]:
        """Run every job once and yield each one's number with what came of it, as they end.

        DeviceError if no board has answered for `timeout_s`, or if boards are of another version.
        """
        if not jobs:
            return
        self._begin(jobs)
        slots = self._slots[: len(jobs)]
        threads = [threading.Thread(target=self._work, args=(slot,)) for slot in slots]
        for thread in threads:
            thread.start()
        try:
            for _ in jobs:
                yield self._next_result()
        finally:
            self._stop.set()
            for slot, thread in zip(slots, threads, strict=True):
                slot.join(thread)

    def _begin(self, jobs: Sequence[Job]) -> None:
        """Empty queues, and as many slots as there are boards."""
        try:
            boards = require_boards(self.address)
        except DeviceError:
            if not self._proved:
                raise
            boards = len(self._slots)  # it may come back in time
        while len(self._slots) < boards:
            self._slots.append(Slot())
        self._stop.clear()
        self._fatal, self._lost, self._broke = None, {}, {}
        self._pending, self._results = queue.SimpleQueue(), queue.SimpleQueue()
        for number, job in enumerate(jobs):
            self._pending.put((number, job))
        self._alive_at = time.monotonic()

    def _next_result(self) -> tuple[int, Done | Failed]:
        while True:
            if self._fatal is not None:
                raise self._fatal
            try:
                return self._results.get(timeout=LOOK_S)
            except queue.Empty:
                silent_s = time.monotonic() - self._alive_at
            if silent_s > self.timeout_s:
                trouble = f": {self._trouble}" if self._trouble else ""
                raise DeviceError(
                    f"no board of {self.address} has answered for {self.timeout_s:g} s{trouble}",
                    hint="see `ofatvm devices list`; the same command goes on when one is back",
                )

    def _work(self, slot: Slot) -> None:
        """Take jobs until told to stop; runs in the slot's own thread."""
        try:
            while not self._stop.is_set():
                if self._pending.empty():
                    self._stop.wait(LOOK_S)  # a job may be put back yet
                elif not self._usable(slot):
                    self._stop.wait(PAUSE_S)
                else:
                    self._take_job(slot)
        except BaseException as error:  # handed on to the thread that called `run`
            self._fatal = error

    def _take_job(self, slot: Slot) -> None:
        try:
            number, (function, arguments) = self._pending.get_nowait()
        except queue.Empty:
            return
        try:
            value = slot.call(function, *arguments, limit_s=self.timeout_s / 2)
        except CallError as error:
            if self._stop.is_set():
                slot.drop()
            elif fault := self._fault(slot, number, error):
                self._results.put((number, Failed(fault)))
            else:
                self._put_back(number, (function, arguments), error)
        else:
            self._alive_at = time.monotonic()
            self._results.put((number, Done(value, slot.board)))

    def _put_back(self, number: int, job: Job, error: CallError) -> None:
        self.losses += 1
        self._lost[number] = self._lost.get(number, 0) + 1
        if self._lost[number] >= MOST_LOSSES:
            raise DeviceError(
                f"sessions with {self.address} broke {MOST_LOSSES} times over the same job, "
                f"the last one because {error.text}",
                hint="look at the network, and whether the boards run `ofatvm devices serve`",
            )
        self._pending.put((number, job))

    def _fault(self, slot: Slot, number: int, error: CallError) -> str:
        """What a job did wrong, or nothing if its failure is not known to be its own fault.

        The slot may have lost its board after this.
        """
        if error.trouble == "error":
            try:
                self._check(slot)
            except CallError as trouble:
                self._trouble = f"{slot.board}: {trouble.text}"
            else:
                return error.text
        board, key = slot.board, slot.key
        slot.drop()
        if not self._back(slot, board):
            return ""
        if slot.board != board:
            broke = self._broke.setdefault(number, set())
            broke.add(board)
            return error.text if len(broke) > 1 else ""
        # What a GPU was asked to do wrong ends its session, and the board is well in the next.
        if error.trouble == "error" or "ends" not in slot.described:
            return error.text
        end = str(slot.described["ends"].get(key, ""))
        if end.startswith("crashed"):
            return end
        own = OWN_ENDS if error.trouble == "timeout" else ("hung", "expired")
        return error.text if end in own else ""

    def _back(self, slot: Slot, board: str) -> bool:
        """Take the board anew, or, where it is not offered soon, another; whether one was found."""
        started = time.monotonic()
        # A plain TVM server holds on to a hung session until the session's time is over.
        patience_s = self.timeout_s / 4 + 3 if "ends" in slot.described else self.timeout_s / 2
        until = min(started + patience_s, self._alive_at + self.timeout_s)
        while True:
            if self._connect(slot, until):
                if slot.board == board or time.monotonic() > started + RETURN_S:
                    return True
                slot.drop()
            if self._stop.wait(PAUSE_S) or time.monotonic() > until:
                return False

    def _usable(self, slot: Slot) -> bool:
        """Whether the slot has a session with time left for a call, or now has a new one."""
        if slot.since and time.monotonic() - slot.since < self.timeout_s / 4:
            return True
        if slot.since:
            slot.drop()
        return self._connect(slot, self._alive_at + self.timeout_s)

    def _connect(self, slot: Slot, until: float) -> bool:
        """Take a board that is free, at the latest `until`, and see that it is well."""
        try:
            if slot.session is None:
                slot.session = Session()
                slot.call(ping, limit_s=START_S)
            granted = request_board(self.address.tracker, self.address.key, until, self._busy)
        except (DeviceError, CallError) as error:
            self._trouble = str(error)
            return False
        if granted is None:
            self._trouble = "the tracker has no free one"
            return False
        host, port, key = granted
        require_loopback(host, allow_network=self.allow_network)
        slot.board, slot.key, slot.since = f"{host}:{port}", key, time.monotonic()
        limit_s = min(max(2.0, self.timeout_s / 8), max(0.5, until - slot.since))
        ends_after_s = self.timeout_s * 0.75 + 1
        try:
            slot.described = slot.call(
                open_session, host, port, key, ends_after_s, self.threads, limit_s=limit_s
            )
            self._compare(slot)
            self._check(slot, until - time.monotonic())
        except CallError as trouble:
            self._note(slot, trouble)
            return False
        self._alive_at = time.monotonic()
        self._proved.add(slot.board)
        return True

    def _busy(self) -> bool:
        """Whether a free board is not wanted any more."""
        return self._stop.is_set()

    def _check(self, slot: Slot, left_s: float = float("inf")) -> None:
        """Run the calibration kernels; CallError if they do not run."""
        limit_s = max(0.5, min(self.timeout_s / 2, left_s))
        # Not earlier: a bench has its calibration kernel only once it is built.
        function, arguments = self.check or (time_kernels, ([], self.calibration, 1.0))
        slot.call(function, *arguments, limit_s=limit_s)

    def _note(self, slot: Slot, trouble: CallError) -> None:
        """Give a board up that is not well; one that never was, and says why, ends the run."""
        slot.drop()
        self._trouble = f"{slot.board}: {trouble.text}"
        if trouble.trouble == "error" and not self._proved:
            raise DeviceError(
                f"the board {slot.board} does not run the calibration kernels: {trouble.text}",
                hint=f"see `ofatvm devices check {self.address}`; is --target the board's?",
            )

    def _compare(self, slot: Slot) -> None:
        """Versions and threads must be those of this side; DeviceError if not."""
        for text, hint in differences(slot.described, self.threads):
            slot.drop()
            raise DeviceError(f"the board {slot.board} of {self.address} {text}", hint=hint)
        if "tvm" not in slot.described and slot.board not in self._warned:
            self._warned.add(slot.board)
            text = f"the TVM version of the board {slot.board} is unknown: it is a plain TVM server"
            self.on_event(Notice("warning", f"{text}; `ofatvm devices serve` says its version"))


def require_boards(address: RpcAddress) -> int:
    """How many boards of the key the tracker knows; DeviceError if none."""
    found = {boards.key: boards.total for boards in boards_of(address.tracker)}
    if not found.get(address.key):
        others = ", ".join(key for key, total in sorted(found.items()) if total) or "none at all"
        raise DeviceError(
            f"the tracker at {address.host}:{address.port} knows no board of the key "
            f"{address.key}; it knows {others}",
            hint=f"on the board: ofatvm devices serve --key {address.key} --tracker HOST:PORT",
        )
    return found[address.key]


def differences(described: dict[str, Any], threads: int) -> list[tuple[str, str]]:
    """What a board has otherwise than this side, to follow the board's name; and what to do."""
    found = []
    for name, package in (("tvm", "apache-tvm"), ("ffi", "apache-tvm-ffi")):
        own, theirs = metadata.version(package), described.get(name, "")
        if theirs and theirs != own:
            text = f"has {package} {theirs}, this side has {own}"
            found.append((text, f"on the board: pip install {package}=={own}"))
    if threads and described["threads"] != threads:
        text = f"runs {counted(described['threads'], 'thread')} where {threads} are asked for"
        found.append((text, f"on the board: ofatvm devices serve --threads {threads}"))
    return found
