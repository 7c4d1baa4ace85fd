from __future__ import annotations

import os
from dataclasses import replace

import pytest

from ofatvm.compiler.isa import host_target
from ofatvm.errors import TargetError, UsageError
from ofatvm.events import Event, Notice
from ofatvm.pipeline.device_choice import LOCAL, SIMULATED, choose_device
from ofatvm.target import Target

HOST = host_target(threads=1)
A72 = Target(name="cortex-a72", mtriple="aarch64-linux-gnu", mcpu="cortex-a72", num_cores=4)


def test_this_machine_where_it_runs_the_code() -> None:
    assert choose_device("auto", HOST) == LOCAL
    assert choose_device("local", HOST) == LOCAL
    assert choose_device("simulated", HOST) == SIMULATED


@pytest.mark.skipif(os.uname().machine == "aarch64", reason="runs aarch64 code")
def test_other_code_is_simulated_and_that_is_said() -> None:
    told: list[Event] = []
    assert choose_device("auto", A72, on_event=told.append) == SIMULATED
    [notice] = told
    assert isinstance(notice, Notice)
    assert "simulated" in notice.text
    with pytest.raises(TargetError, match="does not run on this machine") as caught:
        choose_device("local", A72)
    assert "simulated" in caught.value.hint
    assert "rpc://" in caught.value.hint


def test_more_threads_than_cores_are_refused() -> None:
    many = replace(HOST, num_cores=1024, threads=1024)
    with pytest.raises(TargetError, match="1024 threads"):
        choose_device("local", many)


def test_boards_are_spelled_out_and_others_named() -> None:
    assert choose_device("rpc://127.0.0.1:9190/pi4", A72) == "rpc://127.0.0.1:9190/pi4"
    with pytest.raises(UsageError, match="not this machine"):
        choose_device("rpc://192.0.2.1:9190/pi4", A72)
    assert choose_device("rpc://192.0.2.1:9190/pi4", A72, allow_network=True)
    with pytest.raises(UsageError, match="no device 'boards'"):
        choose_device("boards", HOST)
