"""What every device promises: this machine on both roads, boards, and the ones that pretend."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ofatvm.compiler.program import Step
from ofatvm.compiler.relax import Program
from ofatvm.compiler.relay_env import RelayPool
from ofatvm.device import local
from ofatvm.device.base import Device
from ofatvm.device.local import LocalDevice
from ofatvm.device.relay import RelayDevice
from ofatvm.device.rpc import RpcDevice
from ofatvm.device.rpc_address import RpcAddress
from ofatvm.device.simulated import SimulatedDevice
from ofatvm.device.timing import Latency
from ofatvm.errors import DeviceError
from ofatvm.machine import Cache, Machine
from ofatvm.pipeline.measure import programs_for
from ofatvm.pipeline.setup import CALIBRATION, Setup
from tests.rpc_boards import Stage, free_port, staged
from tests.workbench import QUICK, PretendDevice, pretend_setup

MACHINE = Machine("znver3", 3.0, (Cache(32, 8, 4.0), Cache(512, 8, 12.0)), 90.0, 20.0)


@dataclass
class Case:
    """A device, two programs it can run, one that it cannot, and a device that is gone."""

    device: Device
    small: Program
    large: Program
    broken: Program
    gone: Device


@pytest.fixture(scope="module")
def relay_pool() -> Iterator[RelayPool]:
    with RelayPool(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged(1) as stage:
        yield stage


SIMULATED = pytest.param(
    "simulated",
    marks=[
        pytest.mark.qemu,
        pytest.mark.skipif(
            not (shutil.which("qemu-x86_64") and shutil.which("llvm-mca")),
            reason="needs qemu-user and llvm: apt-get install qemu-user llvm",
        ),
    ],
)


RELAY = pytest.param("relay", marks=pytest.mark.relay)


@pytest.fixture(params=["local", "pretend", "rpc", SIMULATED, RELAY])
def case(
    request: pytest.FixtureRequest, bench: Setup, own_lock: None, tmp_path: Path
) -> Iterator[Case]:
    setup = pretend_setup(tmp_path) if request.param == "pretend" else bench
    if request.param == "relay":
        setup = replace(bench, relay_pool=request.getfixturevalue("relay_pool"))
    small, large = programs_for(setup, [setup.space.smallest(), setup.space.largest()])
    if request.param == "pretend":
        broken = Program(tmp_path / "broken.so", (), ())
        yield Case(PretendDevice(), small, large, broken, PretendDevice(unplugged=True))
        return
    garbage = tmp_path / "garbage.so"
    garbage.write_bytes(b"not a library")
    broken = Program(garbage, small.kernels, small.sizes)
    kernels = setup.library.require(CALIBRATION)
    calibration = [kernels[workload] for workload in CALIBRATION]
    if request.param == "simulated":
        target = replace(setup.target, machine=MACHINE)
        broken = replace(small, steps=(Step("missing", False, (("x", 0),)),))
        nowhere = SimulatedDevice(target, tmp_path / "gone")
        unknown = replace(MACHINE, model="cortex-a999")
        nowhere.simulations.target = replace(target, machine=unknown)
        with SimulatedDevice(target, tmp_path / "simulator") as simulated, nowhere:
            yield Case(simulated, small, large, broken, nowhere)
        return
    if request.param == "rpc":
        address = request.getfixturevalue("stage").address
        nobody = RpcAddress("127.0.0.1", free_port(), "nobody")
        with RpcDevice(address, 1, calibration) as board:
            yield Case(board, small, large, broken, RpcDevice(nobody, 1, calibration, 1.0))
        return
    kind = RelayDevice if request.param == "relay" else LocalDevice
    gone = kind(1, calibration, 1.0)
    gone.calibration = [(str(garbage), (1, 1, 1, 1))]
    with kind(1, calibration) as device, pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "STRIKES", 1)
        yield Case(device, small, large, broken, gone)
        gone._restart()


def test_programs_are_measured_and_a_broken_one_costs_only_itself(case: Case) -> None:
    assert case.device.name
    assert case.device.kind in ("measured", "simulated")
    ticks: list[tuple[int, int]] = []
    small, broken, large = case.device.measure(
        [case.small, case.broken, case.large],
        QUICK,
        seed=1,
        on_visit=lambda done, total: ticks.append((done, total)),
    )
    assert isinstance(small, Latency)
    assert isinstance(large, Latency)
    assert 0 < small.latency_ms < large.latency_ms < 10_000
    assert small.ci_low_ms <= small.latency_ms <= small.ci_high_ms
    assert len(small.visits_ms) >= (3 if case.device.kind == "measured" else 1)
    assert isinstance(broken, str)
    assert broken
    assert "\n" not in broken
    assert ticks
    assert all(done <= total for done, total in ticks)


def test_kernels_are_timed_by_digest(case: Case) -> None:
    kernels = case.large.kernels[:3]
    times = case.device.time_kernels(kernels)
    assert set(times) == {kernel.digest for kernel in kernels}
    assert all(0 < ms < 1000 for ms in times.values())
    assert case.device.time_kernels([]) == {}


def test_nothing_to_measure_is_no_trouble(case: Case) -> None:
    assert case.device.measure([], QUICK, seed=0) == []


def test_a_device_that_is_gone_is_an_error_and_no_programs_fault(case: Case) -> None:
    with pytest.raises(DeviceError):
        case.gone.measure([case.broken], QUICK, seed=0)
