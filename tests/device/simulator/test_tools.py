"""Programs that a simulation starts: killed with their parent, and tried again where that helps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ofatvm import hang
from ofatvm.device.simulator.tools import ToolError, start
from ofatvm.hang import HungError
from tests.rpc_boards import below_of, until

PARENT = """
import os
from ofatvm.device.simulator.tools import start
start(["sleep", "3600"], "sleeping", os.environ, timeout_s=3600.0, long=True)
"""


def test_what_runs_long_ends_with_a_parent_that_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT])
    until(lambda: [process.name() for process in below_of(parent.pid)] == ["sleep"])
    [sleeping] = below_of(parent.pid)
    parent.kill()
    parent.wait()
    until(lambda: not sleeping.is_running())


@pytest.mark.parametrize(
    ("does", "error", "times"),
    [("while :; do :; done", HungError, 1), ("sleep 3600", TimeoutError, 2)],
)
def test_only_what_did_not_compute_is_done_again_when_its_time_is_over(
    does: str, error: type[Exception], times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hang, "SHARE", 0.05)  # other tests want the cores, too
    said = tmp_path / "said"
    words = ["sh", "-c", f"echo begun >> '{said}'; {does}"]
    with pytest.raises(TimeoutError) as caught:
        start(words, "it", os.environ, timeout_s=2.0)
    assert type(caught.value) is error
    assert said.read_text() == "begun\n" * times


@pytest.mark.parametrize("long", [False, True])
def test_what_does_not_start_is_named(long: bool) -> None:
    with pytest.raises(ToolError, match=r"looking failed: no-such-program: No such file"):
        start(["no-such-program"], "looking", os.environ, timeout_s=60.0, long=long)
