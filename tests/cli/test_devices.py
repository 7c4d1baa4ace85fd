"""`ofatvm devices`: listing, checking and being a board, on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.rpc_boards import KEY, Stage, free_port, kill_tree, staged, until

Ofatvm = Callable[..., Any]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged(1) as stage:
        yield stage


def test_the_list(ofatvm: Ofatvm, stage: Stage) -> None:
    until(lambda: stage.free() == 1)
    tracker = f"127.0.0.1:{stage.port}"
    answer = ofatvm("devices", "list", "--tracker", tracker, "--json")
    assert answer.code == 0
    assert answer.json["devices"] == [{"key": KEY, "total": 1, "free": 1, "waiting": 0}]
    text = ofatvm("devices", "list", "--tracker", tracker).out
    assert KEY in text
    assert "boards" in text


def test_a_check(ofatvm: Ofatvm, stage: Stage) -> None:
    answer = ofatvm("devices", "check", stage.address, "--json")
    assert answer.code == 0
    device = answer.json["device"]
    assert device["threads"] == 1
    assert device["tvm"]
    assert device["round_trip_ms"] > 0
    assert device["kernel_ms"] > 0
    assert not device["note"]
    until(lambda: stage.free() == 1)
    text = ofatvm("devices", "check", stage.address).out
    assert "round trip" in text


def test_a_check_of_other_threads(ofatvm: Ofatvm, stage: Stage) -> None:
    until(lambda: stage.free() == 1)
    answer = ofatvm("devices", "check", stage.address, "--threads", 5)
    assert (answer.code, answer.out) == (4, "")
    assert "--threads 5" in answer.err
    assert len(answer.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("check", "rpc://127.0.0.1:{free}/pi4"), 4, "connection refused"),
        (("check", "rpc://127.0.0.1:{port}/pi4"), 4, "no board of the key pi4"),
        (("check", "rpc://10.1.2.3:9190/pi4"), 2, "ssh -L"),
        (("check", "rpc://127.0.0.1:99999/pi4"), 2, "65535"),
        (("check", "rpc://127.0.0.1:9190/pi:4"), 2, "key"),
        (("check", "127.0.0.1:9190"), 2, "rpc://HOST:PORT/KEY"),
        (("check",), 2, "ADDRESS"),
        (("list", "--tracker", "127.0.0.1:{free}"), 4, "connection refused"),
        (("list", "--tracker", "pi.local:9190"), 2, "ssh -L"),
        (("list", "--tracker", "nonsense"), 2, "HOST:PORT"),
        (("serve", "--key", "pi 4"), 2, "key"),
        (("serve", "--key", "pi4", "--bind", "0.0.0.0"), 2, "ssh -L"),
        (("serve", "--key", "pi4", "--tracker", "pi.local:9190"), 2, "ssh -L"),
        (("serve", "--key", "pi4", "--threads", "0"), 2, "--threads"),
        (("serve", "--key", "pi4", "--bind", "a b", "--allow-network"), 2, "'a b' is no host"),
        (("serve", "--key", "pi4", "--port", "70000"), 2, "--port"),
        (("serve",), 2, "--key"),
        ((), 2, "Missing command"),
        (("frobnicate",), 2, "frobnicate"),
    ],
)
def test_what_cannot_be_is_one_line(
    ofatvm: Ofatvm, stage: Stage, words: tuple[str, ...], code: int, line: str
) -> None:
    filled = [word.format(free=free_port(), port=stage.port) for word in words]
    answer = ofatvm("devices", *filled)
    assert (answer.code, answer.out) == (code, "")
    assert line in answer.err
    assert len(answer.err.splitlines()) == 1


# A test runner in the background may hand down an ignored SIGINT.
SERVE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from ofatvm.cli.main import main
sys.exit(main())
"""


def test_serving_says_that_the_tracker_is_gone_and_that_it_is_back(tmp_path: Path) -> None:
    said = tmp_path / "said"
    with staged(0) as stage, said.open("w") as stream:
        words = ("serve", "--key", KEY, "--tracker", f"127.0.0.1:{stage.port}", "--threads", "1")
        command = [sys.executable, "-c", SERVE, "devices", *words]
        serving = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=stream, text=True
        )
        try:
            until(lambda: stage.free() == 1)
            assert "the tracker" not in said.read_text()
            kill_tree(stage.tracker)
            until(lambda: "does not answer" in said.read_text())
            stage.start_tracker()
            until(lambda: "answers: this board can be reached" in said.read_text())
            until(lambda: stage.free() == 1)
        finally:
            serving.terminate()
            serving.wait(60)
    lines = [line for line in said.read_text().splitlines() if "the tracker" in line]
    assert len(lines) == 2
    assert lines[0].startswith(f"warning: the tracker at 127.0.0.1:{stage.port} does not answer")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_serving_with_a_tracker_until_a_signal(
    ofatvm: Ofatvm, tmp_path: Path, number: signal.Signals
) -> None:
    tracker = f"127.0.0.1:{free_port()}"
    words = ["serve", "--key", "pi4", "--tracker", tracker, "--tracker-here", "--threads", "1"]
    command = [sys.executable, "-c", SERVE, "devices", *words, "--json"]
    serving = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )

    def free() -> int:
        answer = ofatvm("devices", "list", "--tracker", tracker, "--json")
        return sum(row["free"] for row in answer.json.get("devices", ()))

    try:
        until(lambda: free() == 1)
        family = psutil.Process(serving.pid).children(recursive=True)
        assert len(family) == 3, "tracker, supervisor, agent"
        if number == signal.SIGTERM:
            os.kill(family[1].pid, signal.SIGKILL)  # both come back
            os.kill(family[0].pid, signal.SIGKILL)
            until(lambda: free() == 1)
            family += psutil.Process(serving.pid).children(recursive=True)
        serving.send_signal(number)
        out, _ = serving.communicate(timeout=60)
    finally:
        serving.kill()
        serving.wait()
    until(lambda: not any(process.is_running() for process in family))
    if number != signal.SIGKILL:
        assert serving.returncode == 0
        assert json.loads(out)["served"] == "pi4"
