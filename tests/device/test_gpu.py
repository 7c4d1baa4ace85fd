"""GPUs of boards over RPC, tried with networks for this machine's CPU in their place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ofatvm.compiler.gpu import build_gpu_program
from ofatvm.compiler.relax import Program
from ofatvm.device.gpu import GpuDevice
from ofatvm.device.timing import Latency
from ofatvm.errors import DeviceError
from ofatvm.graph import operator_graph
from ofatvm.spaces import SMALL
from tests.rpc_boards import Stage, staged
from tests.workbench import QUICK, TARGET


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged(1) as stage:
        yield stage


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> list[Program]:
    folder = tmp_path_factory.mktemp("programs")
    archs = SMALL.smallest(), SMALL.largest()
    built = [
        build_gpu_program(operator_graph(arch), TARGET, folder / f"{place}.so")
        for place, arch in enumerate(archs)
    ]
    return [Program(program.build.path, (), (), shapes=program.shapes) for program in built]


def test_networks_are_measured_and_a_broken_one_costs_only_itself(
    stage: Stage, programs: list[Program], tmp_path: Path
) -> None:
    small, large = programs
    (tmp_path / "broken.so").write_bytes(b"not a library")
    broken = replace(small, path=tmp_path / "broken.so")
    with GpuDevice(stage.address, small, runs_on="cpu") as device:
        assert device.visit_reference.get() > 0
        first, failed, last = device.measure([small, broken, large], QUICK, seed=1)
        assert device.measure([], QUICK, seed=1) == []
        assert device.time_kernels([]) == {}
    assert isinstance(first, Latency)
    assert isinstance(last, Latency)
    assert 0 < first.latency_ms < last.latency_ms < 10_000
    assert isinstance(failed, str)
    assert "\n" not in failed


def test_a_board_without_a_gpu_is_said_in_one_line(stage: Stage, programs: list[Program]) -> None:
    with (
        GpuDevice(stage.address, programs[0]) as device,
        pytest.raises(DeviceError, match="the board has no cuda device") as caught,
    ):
        device.measure([programs[0]], QUICK, seed=1)
    assert "\n" not in caught.value.message
