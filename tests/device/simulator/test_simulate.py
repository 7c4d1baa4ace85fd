"""Simulations for real: qemu, llvm-mca, the plugin and the guest program."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from ofatvm.compiler.kernels import build_object
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.program import Step
from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.device.simulator import simulate as simulator
from ofatvm.device.simulator import tools
from ofatvm.device.simulator.cost import StepCost
from ofatvm.device.simulator.jobs import CANDIDATE, Simulations, simulate_candidate
from ofatvm.device.simulator.simulate import simulate
from ofatvm.errors import CompileError, DeviceError, MeasurementError
from ofatvm.machine import Cache, Machine
from ofatvm.target import MAX_CORES, Target

MACHINE = Machine(
    model="cortex-a72",
    clock_ghz=1.5,
    caches=(Cache(32, 2, 4.0), Cache(1024, 16, 21.0, shared=True)),
    memory_ns=150.0,
    memory_gb_per_s=4.0,
    misses_in_flight=6,
)
A72 = Target(
    name="cortex-a72", mtriple="aarch64-linux-gnu", mcpu="cortex-a72", num_cores=1, machine=MACHINE
)
POINTWISE = Workload("pointwise", (8, 8, 32), (8, 8, 64), activation="relu")
GOOD = ScheduleConfig(rows=2, columns=4, groups=2, lanes=4)
POOR = ScheduleConfig(rows=1, columns=1, groups=1, lanes=4)

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(
        not (shutil.which("qemu-aarch64") and shutil.which("llvm-mca")),
        reason="needs qemu-user and llvm: apt-get install qemu-user llvm",
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("simulator")


def costs_of(target: Target, config: ScheduleConfig, folder: Path) -> list[StepCost]:
    costs, error = simulate_candidate((POINTWISE, config), target, str(folder))
    assert not error
    return costs


def test_every_multiply_add_is_counted(folder: Path) -> None:
    [cost] = costs_of(A72, GOOD, folder)
    assert cost.mix["multiply-add"] == POINTWISE.macs / 4, "four lanes each"
    # Not faster than one vector multiply-add a cycle, and within reach of that.
    assert POINTWISE.macs / 4 <= cost.cycles < 3 * POINTWISE.macs / 4


def test_schedules_differ_and_repeat_to_the_last_digit(folder: Path, tmp_path: Path) -> None:
    [good] = costs_of(A72, GOOD, folder)
    [poor] = costs_of(A72, POOR, folder)
    assert poor.cycles > 1.5 * good.cycles
    assert costs_of(A72, GOOD, tmp_path) == [good]


def test_threads_share_the_work(folder: Path) -> None:
    four = replace(A72, num_cores=4, threads=4)
    [alone] = costs_of(A72, GOOD, folder)
    [shared] = costs_of(four, GOOD, folder)
    assert shared.mix["multiply-add"] == alone.mix["multiply-add"]
    assert alone.cycles / 4 <= shared.cycles < alone.cycles / 2


def test_as_many_cores_as_a_target_may_have(folder: Path) -> None:
    many = replace(A72, num_cores=MAX_CORES, threads=MAX_CORES)
    [shared] = costs_of(many, GOOD, folder)
    assert shared.mix["multiply-add"] == POINTWISE.macs / 4


def test_a_smaller_cache_costs_more(folder: Path) -> None:
    tiny = replace(MACHINE, caches=(Cache(1, 1, 4.0), MACHINE.caches[1]))
    [large] = costs_of(A72, GOOD, folder)
    [small] = costs_of(replace(A72, machine=tiny), GOOD, folder)
    assert small.compute_cycles == large.compute_cycles
    assert small.memory_cycles > 2 * large.memory_cycles


def test_code_that_crashes_is_the_codes_fault(folder: Path, tmp_path: Path) -> None:
    from ofatvm.compiler.llvm import compile_ir

    crash = tmp_path / "crash.o"
    text = f"define void @{CANDIDATE}(i32 %a, i32 %b, ptr %p) {{\n"
    text += "  store i32 1, ptr inttoptr (i64 8 to ptr)\n  ret void\n}"
    compile_ir(text, A72, crash)
    with pytest.raises(MeasurementError, match="under qemu"):
        simulate(A72, [Step(CANDIDATE, False, (("x", 0),))], (1, 1, 1, 1), [crash], folder)


def test_a_qemu_that_was_killed_is_nobodys_fault(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = subprocess.CompletedProcess([], -signal.SIGKILL, "", "")
    step = Step(CANDIDATE, False, (("x", 0),))
    path = tmp_path / "candidate.o"
    build_object(POINTWISE, GOOD, CANDIDATE, A72, path)
    monkeypatch.setattr("ofatvm.device.simulator.simulate.link_guest", lambda *given, **more: path)
    monkeypatch.setattr(tools, "ended", lambda *given, **more: killed)
    with pytest.raises(DeviceError, match="qemu ended with signal 9"):
        simulate(A72, [step], (1, 1, 1, 1), [path], folder)


@pytest.mark.parametrize(
    ("code", "said", "fault"),
    [
        (1, "ld.lld: error: undefined symbol", CompileError),
        (1, "ld.lld: error: cannot write: No space left on device", DeviceError),
        (-signal.SIGXFSZ, "", DeviceError),
    ],
)
def test_tools_fail_by_a_candidates_fault_or_for_want_of_room(
    code: int, said: str, fault: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.CompletedProcess([], code, "", said)
    monkeypatch.setattr(tools, "ended", lambda *given, **more: done)
    with pytest.raises(fault, match="linking failed"):
        tools.run(["ld.lld"], "linking")


@pytest.mark.parametrize("name", ["com,ma", "sp ace", "quo\"te's", "equals=", "größe"])
def test_folders_may_have_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    place = tmp_path / name
    (place / "tmp").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(place / "tmp"))
    assert costs_of(A72, GOOD, place / "simulator")


BROKEN = {
    "missing": None,
    "fails": "echo it is broken >&2; exit 1",
    "crashes": "kill -SEGV $$",
    "is killed": "kill -KILL $$",
    "says nothing": "exit 0",
    "says garbage": "printf '\\377\\376garbage\\n'; exit 0",
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("name", ["qemu-aarch64", "llvm-mca", "llvm-mc"])
def test_a_tool_that_breaks_is_no_candidates_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    imitated = imitate(name, tmp_path, monkeypatch)
    costs_of(A72, GOOD, tmp_path)
    break_tool(imitated, BROKEN[how])
    # The second schedule has blocks that are not known yet.
    with pytest.raises(DeviceError) as caught:
        simulate_candidate((POINTWISE, POOR), A72, str(tmp_path))
    assert "\n" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("name", ["qemu-aarch64", "llvm-mca", "llvm-mc"])
def test_a_tool_that_was_killed_once_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    imitated = imitate(name, tmp_path, monkeypatch)
    costs_of(A72, GOOD, tmp_path)
    flag = tmp_path / "killed"
    break_tool(imitated, f"[ -e '{flag}' ] || {{ touch '{flag}'; kill -KILL $$; }}")
    assert costs_of(A72, POOR, tmp_path)
    assert flag.exists()


def imitate(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name which starts the real one, found before it."""
    real = shutil.which(name)
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {real} "$@"\n')
    path.chmod(0o755)
    if name.startswith("llvm"):
        monkeypatch.setattr(tools, "MCA_NAMES", ("llvm-mca",))
        both = "llvm-mca", "llvm-mc"
        for other in both:
            if not (path.parent / other).exists():
                (path.parent / other).symlink_to(str(shutil.which(other)))
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    tools._version.cache_clear()
    return path


def break_tool(path: Path, body: str | None) -> None:
    """Let an imitated tool do this first; None takes it away."""
    if body is None:
        path.unlink()
        return
    shebang, call = path.read_text().splitlines()
    path.write_text(f"{shebang}\n{body}\n{call}\n")


def test_code_that_qemu_does_not_execute_is_refused_before_it_is_compiled(folder: Path) -> None:
    wide = replace(A72, mtriple="", mcpu="x86-64-v4")
    with pytest.raises(DeviceError, match="qemu executes no AVX-512"):
        Simulations(wide, folder)


def test_what_was_simulated_is_not_simulated_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Simulations(A72, folder) as first:
        [(costs, error)] = first.candidates([(POINTWISE, GOOD)])
    assert not error
    monkeypatch.setattr("ofatvm.device.simulator.jobs.child_pool", None)
    with Simulations(A72, folder) as second:
        assert second.candidates([(POINTWISE, GOOD)]) == [(costs, "")]
    faster = replace(A72, machine=replace(MACHINE, clock_ghz=1.8))
    assert Simulations(faster, folder).digest != second.digest, "another clock, another result"


def test_missing_tools_say_how_to_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.shutil, "which", lambda name: None)
    with pytest.raises(DeviceError, match="qemu-aarch64") as caught:
        Simulations(A72, folder)
    assert "apt-get install qemu-user llvm" in caught.value.hint
    assert "rpc://" in caught.value.hint


def test_an_unknown_cpu_is_named(folder: Path) -> None:
    strange = replace(MACHINE, model="cortex-a999")
    with pytest.raises(DeviceError, match="cortex-a999"):
        Simulations(replace(A72, machine=strange), folder)
    with pytest.raises(DeviceError, match="caches and the clock"):
        Simulations(replace(A72, machine=None), folder)


@pytest.mark.parametrize(
    ("triple", "cpu", "options"),
    [
        ("x86_64-linux-gnu", "x86-64-v2", {"model": "btver2"}),
        ("riscv64-linux-gnu", "sifive-u74", {"model": "sifive-u74"}),
    ],
)
def test_other_machines(folder: Path, triple: str, cpu: str, options: dict[str, str]) -> None:
    name = f"qemu-{triple.split('-')[0]}"
    if not shutil.which(name):
        pytest.skip(f"needs {name}")
    target = Target(name=cpu, mtriple=triple, mcpu=cpu, machine=replace(MACHINE, **options))
    config = ScheduleConfig(rows=1, columns=2, groups=1, lanes=4)
    [cost] = costs_of(target, config, folder)
    assert cost.cycles > POINTWISE.macs / 8


@pytest.mark.parametrize("damage", [b"", b"garbage"])
def test_what_was_compiled_for_a_simulation_and_damaged_is_compiled_again(
    tmp_path: Path, damage: bytes
) -> None:
    costs = costs_of(A72, GOOD, tmp_path)
    for path in (*tmp_path.glob("plugin-*.so"), *tmp_path.glob("guest-*.o")):
        path.write_bytes(damage)
    simulator._prepared.cache_clear()
    assert costs_of(A72, GOOD, tmp_path) == costs
