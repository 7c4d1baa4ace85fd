"""Boards that die, fall silent or talk nonsense in the middle of work: nothing false comes of it.

The wall time is asserted here, and only here, because ending in time is the promise.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ofatvm.compiler.relax import Program
from ofatvm.device.rpc import RpcDevice
from ofatvm.device.timing import Latency, Protocol
from ofatvm.errors import DeviceError
from ofatvm.pipeline.measure import programs_for
from ofatvm.pipeline.setup import CALIBRATION, Setup
from tests.rpc_boards import (
    Relay,
    Stage,
    agent_of,
    below_of,
    free_port,
    kill_tree,
    sessions_here,
    staged,
    stop_tree,
    until,
)

TIMEOUT_S = 12.0
WORK = Protocol(processes=1, rounds=7, block_ms=100.0, warmup_ms=5.0, half_width=1e-9)
FAULTS = ("kill", "stop", "half-open", "garbage")
NUMBERS = (0, *(pytest.param(number, marks=pytest.mark.slow) for number in range(1, 20)))


@pytest.fixture(scope="module")
def program(bench: Setup) -> Program:
    return programs_for(bench, [bench.space.smallest()])[0]


def device(bench: Setup, stage: Stage, timeout_s: float = TIMEOUT_S) -> RpcDevice:
    kernels = bench.library.require(CALIBRATION)
    calibration = [kernels[workload] for workload in CALIBRATION]
    return RpcDevice(stage.address, 1, calibration, 1e-3, timeout_s=timeout_s)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with staged(0) as stage:
        yield stage


class Fault:
    """A board behind a relay, and what happens to it a moment after work has begun."""

    def __init__(self, stage: Stage, kind: str, seed: int) -> None:
        self.kind = kind
        self.delay_s = random.Random(seed).uniform(0.0, 1.5)
        port = free_port()
        self.relay = Relay(port)
        ports = ("--port", port, "--public-port", self.relay.port)
        self.board = stage.start_board("--threads", 1, *ports)
        self.at = 0.0

    def strike(self, done: int, total: int) -> None:
        """To be called after every visit; strikes once, a moment after the first."""
        if not self.at:
            self.at = time.monotonic() + self.delay_s
            threading.Timer(self.delay_s, self.happen).start()

    def happen(self) -> None:
        if self.kind == "kill":
            kill_tree(self.board)
        elif self.kind == "stop":
            stop_tree(self.board)
        else:
            self.relay.mode = "stall" if self.kind == "half-open" else "garbage"


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", FAULTS)
def test_the_only_board_fails_and_the_run_ends_in_time(
    kind: str, number: int, bench: Setup, program: Program, stage: Stage
) -> None:
    fault = Fault(stage, kind, number)
    until(lambda: stage.free() == 1)
    with device(bench, stage) as rpc:
        with pytest.raises(DeviceError, match=r"127\.0\.0\.1") as caught:
            rpc.measure([program] * 2, WORK, seed=number, on_visit=fault.strike)
        assert time.monotonic() - fault.at < TIMEOUT_S + 2
        assert caught.value.hint
    assert not sessions_here()
    fault.relay.close()


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", FAULTS)
def test_one_of_two_boards_fails_and_the_other_does_all_the_work(
    kind: str, number: int, bench: Setup, program: Program, stage: Stage
) -> None:
    fault = Fault(stage, kind, number)
    stage.start_board("--threads", 1)
    until(lambda: stage.free() == 2)
    with device(bench, stage) as rpc:
        found = rpc.measure([program] * 2, WORK, seed=number, on_visit=fault.strike)
    assert time.monotonic() > fault.at > 0
    assert all(isinstance(latency, Latency) for latency in found), found
    assert not sessions_here()
    fault.relay.close()


def test_an_agent_that_is_killed_or_stopped_is_replaced_and_the_work_goes_on(
    bench: Setup, program: Program, stage: Stage
) -> None:
    board = stage.start_board("--threads", 1)
    until(lambda: stage.free() == 1)
    first = agent_of(board).pid
    blows = iter([psutil.Process.kill, psutil.Process.suspend])

    def strike(done: int, total: int) -> None:
        if done in (2, 8):
            next(blows)(agent_of(board))

    with device(bench, stage, 60.0) as rpc:
        found = rpc.measure([program] * 2, WORK, seed=0, on_visit=strike)
    assert all(isinstance(latency, Latency) for latency in found), found
    assert agent_of(board).pid != first


def test_nobody_outlives_a_supervisor(bench: Setup, program: Program, stage: Stage) -> None:
    board = stage.start_board("--threads", 1)
    until(lambda: stage.free() == 1)
    family: list[psutil.Process] = []

    def strike(done: int, total: int) -> None:
        if not family:
            family.extend(below_of(board.pid))
            board.kill()
            board.wait()

    with device(bench, stage, 6.0) as rpc, pytest.raises(DeviceError):
        rpc.measure([program], WORK, seed=0, on_visit=strike)
    assert len(family) == 2, "the agent and its session"
    until(lambda: not any(process.is_running() for process in family))


def test_a_listener_that_never_answers_is_passed_over(
    bench: Setup, program: Program, stage: Stage
) -> None:
    silent = Relay(free_port())
    silent.mode = "stall"
    mute = stage.start_board("--threads", 1, "--public-port", silent.port)
    until(lambda: stage.free() == 1)
    with device(bench, stage, 8.0) as rpc:
        started = time.monotonic()
        with pytest.raises(DeviceError):
            rpc.measure([program], WORK, seed=0)
        assert time.monotonic() - started < 8.0 + 2
    kill_tree(mute)
    silent.close()


def test_a_stalled_handshake_keeps_nobody_waiting(
    bench: Setup, program: Program, stage: Stage
) -> None:
    import socket
    import struct

    port = free_port()
    stage.start_board("--threads", 1, "--port", port)
    until(lambda: stage.free() == 1)
    hostile = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
    for number, connection in enumerate(hostile):
        words = (b"", b"\x71", struct.pack("<ii", 0xFF271, 2**31 - 1), b"GET / HTTP/1.1\r\n\r\n")
        connection.sendall(words[number % 4])
    with socket.create_connection(("127.0.0.1", stage.port)) as tracker:
        tracker.sendall(b"\x00" * 64)
    quick = Protocol(processes=1, rounds=1, block_ms=5.0, warmup_ms=1.0)
    with device(bench, stage) as rpc:
        [found] = rpc.measure([program], quick, seed=0)
    assert isinstance(found, Latency)
    for connection in hostile:
        connection.close()


def test_only_loopback_is_open(bench: Setup, program: Program, stage: Stage) -> None:
    board = stage.start_board("--threads", 1)
    until(lambda: stage.free() == 1)
    seen: set[str] = set()

    def look(done: int, total: int) -> None:
        for process in (*below_of(board.pid), psutil.Process(stage.tracker.pid), *sessions_here()):
            seen.update(hosts_of(process.pid))

    quick = Protocol(processes=1, rounds=1, block_ms=5.0, warmup_ms=1.0)
    with device(bench, stage) as rpc:
        rpc.measure([program], quick, seed=0, on_visit=look)
    assert seen == {"127.0.0.1"}


def hosts_of(pid: int) -> set[str]:
    """Local addresses of a process's TCP sockets, by /proc."""
    import os
    import socket

    links = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.add(os.readlink(entry))
        except OSError:
            continue
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            words = line.split()
            if f"socket:[{words[9]}]" in links:
                raw = bytes.fromhex(words[1].partition(":")[0])
                assert len(raw) == 4, "IPv6"
                found.add(socket.inet_ntoa(raw[::-1]))
    return found
