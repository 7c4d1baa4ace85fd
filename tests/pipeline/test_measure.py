"""What was measured with the same kernels is not measured again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofatvm.arch import Arch
from ofatvm.compiler.relax import Program
from ofatvm.compiler.space import schedule_space
from ofatvm.device.rpc_address import parse_address
from ofatvm.device.timing import Protocol
from ofatvm.errors import MeasurementError, TargetError
from ofatvm.events import Event, Progress, StageFinished, StageStarted
from ofatvm.pipeline import measure as module
from ofatvm.pipeline.devices import open_device
from ofatvm.pipeline.measure import (
    compile_space,
    device_state,
    kernel_times,
    latencies_ms,
    measure,
    programs_for,
    require_some,
)
from ofatvm.pipeline.references import HOLDS_AFTER, KERNEL_TIMES, begin_anew, forget, holds_after
from ofatvm.pipeline.setup import Setup
from ofatvm.store import Store
from tests.workbench import SPACE, PretendCompiler, PretendDevice

MakeSetup = Callable[[Path], Setup]


def archs(setup: Setup, count: int, seed: int = 0) -> list[Arch]:
    rng = np.random.default_rng(seed)
    return setup.space.from_rows(setup.space.sample_rows(rng, count))


def test_measurements_come_in_order_and_are_stored(setup: Setup, store: Store) -> None:
    device, wanted = PretendDevice(), archs(setup, 10)
    events: list[Event] = []
    found = measure(
        setup,
        store,
        device,
        [*wanted, wanted[0]],
        source="profile",
        seed=5,
        on_event=events.append,
    )
    assert [m.arch for m in found] == [a.encode() for a in [*wanted, wanted[0]]]
    assert device.measured == 10
    assert store.measurements(target=setup.target.fingerprint) == found[:10]
    assert {(m.device, m.kind, m.source, m.seed) for m in found} == {
        ("pretend", "simulated", "profile", 5)
    }
    assert set(found[0].versions) == {"apache-tvm", "apache-tvm-ffi", "ofatvm"}
    assert [type(event) for event in events] == [StageStarted, *[Progress] * 12, StageFinished]
    assert events[0] == StageStarted("simulate", 10, "profile, 10 subnets")
    assert isinstance(events[-1], StageFinished)
    assert events[-1].detail == "10 subnets"
    # Every visit, and every group of eight when it is stored.
    steps = [event.done for event in events if isinstance(event, Progress)]
    assert steps == [*range(1, 9), 8, 9, 10, 10]


def test_what_is_stored_is_not_measured_again(setup: Setup, store: Store) -> None:
    device, wanted = PretendDevice(), archs(setup, 6)
    first = measure(setup, store, device, wanted[:4], source="profile")
    again = measure(setup, store, device, wanted, source="profile")
    assert device.measured == 6
    assert again[:4] == first
    # The same architectures, cut out of the whole space instead of the one at 224.
    whole = [SPACE.parse(arch.encode()) for arch in wanted]
    assert measure(setup, store, device, whole, source="profile") == again
    assert device.measured == 6


@pytest.mark.parametrize("change", ["source", "threads", "target", "device", "fresh", "kernels"])
def test_other_circumstances_are_measured_anew(
    setup: Setup, store: Store, make_setup: MakeSetup, tmp_path: Path, change: str
) -> None:
    wanted = archs(setup, 2)
    measure(setup, store, PretendDevice(), wanted, source="profile")
    device, target = PretendDevice(), setup.target
    if change == "device":
        device.name = "another"
    if change == "threads":
        target = replace(target, threads=1)
    if change == "target":
        target = replace(target, mcpu="znver3")
    other = replace(setup, target=target)
    if change == "kernels":
        calls = other.workloads(wanted)
        slow = {w.key: schedule_space(w, other.unit)[0] for w in calls}
        other.library.records.update(slow)
    source = "final" if change == "source" else "profile"
    if change == "fresh":
        begin_anew(store, device_state(other, device))
    measure(other, store, device, wanted, source=source)
    assert device.measured == 2


def test_failures_are_stored_with_their_reason_and_tried_again(
    setup: Setup, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = archs(setup, 3)
    broken = wanted[1]

    def programs(setup: Setup, archs: list[Arch]) -> list[Program]:
        return [
            replace(program, kernels=()) if arch == broken else program
            for arch, program in zip(archs, programs_for(setup, archs), strict=True)
        ]

    with monkeypatch.context() as patch:
        patch.setattr(module, "programs_for", programs)
        found = measure(setup, store, PretendDevice(), wanted, source="profile")
    assert [bool(m.error) for m in found] == [False, True, False]
    assert np.isnan(latencies_ms(found)).tolist() == [False, True, False]
    require_some(found)
    with pytest.raises(MeasurementError, match=r"^measuring failed: the process"):
        require_some(found[1:2])
    device = PretendDevice()
    assert measure(setup, store, device, wanted, source="profile")[1].error == ""
    assert device.measured == 1


def test_a_killed_run_goes_on_from_what_it_acknowledged(
    make_setup: MakeSetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GROUP", 4)
    first, wanted = make_setup(tmp_path), archs(make_setup(tmp_path), 10)
    with Store.open(tmp_path) as store, pytest.raises(KeyboardInterrupt):
        measure(first, store, PretendDevice(dies_after=9), wanted, source="profile")
    device = PretendDevice()
    with Store.open(tmp_path) as store:
        found = measure(make_setup(tmp_path), store, device, wanted, source="profile")
    assert device.measured == 2
    assert all(m.latency_ms for m in found)


class WakingDevice(PretendDevice):
    """Finds out at its `wakes_at`-th program or kernel that its reference was too long."""

    def __init__(self, store: Store, run: str, *, wakes_at: int) -> None:
        super().__init__()
        self.store, self.run, self.wakes_at = store, run, wakes_at

    def measure(self, programs: Sequence[Program], *arguments: Any, **options: Any) -> Any:
        if self.measured < self.wakes_at <= self.measured + len(programs):
            forget(self.store, self.run, HOLDS_AFTER)
        return super().measure(programs, *arguments, **options)

    def time_kernels(self, kernels: Sequence[Any]) -> dict[str, float]:
        if self.timed < self.wakes_at <= self.timed + len(kernels):
            forget(self.store, self.run, KERNEL_TIMES)
        return super().time_kernels(kernels)


def test_what_a_reference_that_was_too_long_scaled_is_measured_anew(
    setup: Setup, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GROUP", 2)
    wanted, run = archs(setup, 6), device_state(setup, PretendDevice())
    measure(setup, store, PretendDevice(), wanted[:2], source="profile")
    device = WakingDevice(store, run, wakes_at=3)
    found = measure(setup, store, device, wanted, source="profile")
    assert device.measured == 4 + 4, "the two groups before are measured once more"
    held = store.measurements(target=setup.target.fingerprint, after=holds_after(store, run))
    assert {m.arch for m in held} == {m.arch for m in found} == {a.encode() for a in wanted}
    later = PretendDevice()
    assert measure(setup, store, later, wanted, source="profile") == found
    assert later.measured == 0


def test_kernels_that_such_a_reference_scaled_are_timed_anew(setup: Setup, store: Store) -> None:
    kernels = compile_space(setup)
    device = WakingDevice(store, device_state(setup, PretendDevice()), wakes_at=100)
    kernel_times(setup, store, device, kernels)
    assert device.timed == len(kernels) + module.TIMED_AT_ONCE


def test_kernels_are_compiled_and_timed_once(
    make_setup: MakeSetup, store: Store, tmp_path: Path
) -> None:
    setup, device = make_setup(tmp_path), PretendDevice()
    kernels = compile_space(setup)
    table = kernel_times(setup, store, device, kernels)
    assert isinstance(setup.executor, PretendCompiler)
    assert setup.executor.compiled >= len(kernels) > 100
    assert device.timed == len(kernels)
    rows = setup.space.to_rows(archs(setup, 4))
    measured = latencies_ms(
        measure(
            setup, store, device, archs(setup, 4), source="profile", protocol=Protocol(1, 3, 1, 1)
        )
    )
    # The device says that programs take their kernels' times over 0.9, and 0.1 ms.
    np.testing.assert_allclose(table(rows) / 0.9 + 0.1, measured, rtol=1e-6)

    again, later = make_setup(tmp_path), PretendDevice()
    np.testing.assert_array_equal(
        kernel_times(again, store, later, compile_space(again))(rows), table(rows)
    )
    assert isinstance(again.executor, PretendCompiler)
    assert (again.executor.compiled, later.timed) == (0, 0)


def test_programs_are_deleted_once_measured(setup: Setup, store: Store) -> None:
    measure(setup, store, PretendDevice(), archs(setup, 2), source="profile")
    assert not list((setup.workspace / "programs").rglob("*.so"))


@pytest.mark.usefixtures("own_lock")
def test_the_reference_is_kept_from_the_start(bench: Setup, tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        killed = open_device(bench, store)
        reference = killed.__enter__().kernel_reference.seconds
        assert reference is not None
        killed.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        with open_device(bench, store) as device:
            assert device.kernel_reference.seconds == reference


@pytest.mark.usefixtures("own_lock")
def test_a_reference_taken_on_a_busy_machine_is_put_right(bench: Setup, tmp_path: Path) -> None:
    smallest = [bench.space.smallest()]
    with Store.open(tmp_path) as store:
        with open_device(bench, store) as device:
            device.visit_reference.on_lower(20 * device.visit_reference.get())
        with open_device(bench, store) as device:
            before = device.visit_reference.get()
            [found] = measure(bench, store, device, smallest, source="profile")
            assert device.visit_reference.get() < before / 2
        assert found.calibration_ratio is not None
        assert found.calibration_ratio < 5, "20 by the reference that was too long"
        with open_device(bench, store) as device:
            assert measure(bench, store, device, smallest, source="profile") == [found]


def test_boards_are_kept_by_their_key_whatever_the_tunnel_s_port(setup: Setup) -> None:
    names = [
        device_state(replace(setup, device=f"rpc://127.0.0.1:{port}/{key}"))
        for port, key in ((9190, "pi4"), (9191, "pi4"), (9190, "pi5"))
    ]
    assert names[0] == names[1] != names[2]
    # As measurements have it, and kernel times, which ask the open device.
    board = PretendDevice()
    board.name = parse_address("rpc://127.0.0.1:9191/pi4").device
    assert device_state(replace(setup, device="rpc://127.0.0.1:9191/pi4"), board) == names[0]


@pytest.mark.parametrize(
    "target", [{"mcpu": "cortex-a72", "mtriple": "aarch64-linux-gnu"}, {"num_cores": 1024}]
)
def test_only_this_machines_code_is_measured_here(
    bench: Setup, tmp_path: Path, target: dict[str, object]
) -> None:
    other = replace(bench, target=replace(bench.target, threads=0, **target))  # type: ignore[arg-type]
    with (
        Store.open(tmp_path) as store,
        pytest.raises(TargetError),
        open_device(other, store),
    ):
        pass
