"""Programs that crash or hang cost themselves and nothing else; one process measures at a time."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ofatvm.compiler.relax import Program
from ofatvm.device import local
from ofatvm.device.local import LocalDevice
from ofatvm.device.timing import Latency
from ofatvm.errors import BusyError, DeviceError
from ofatvm.pipeline.measure import programs_for
from ofatvm.pipeline.setup import CALIBRATION, Setup
from tests.workbench import QUICK

pytestmark = pytest.mark.usefixtures("own_lock")


@pytest.fixture(scope="module")
def program(bench: Setup) -> Program:
    return programs_for(bench, [bench.space.smallest()])[0]


def device(bench: Setup, **options: float) -> LocalDevice:
    kernels = bench.library.require(CALIBRATION)
    return LocalDevice(1, [kernels[workload] for workload in CALIBRATION], **options)


def library(folder: Path, name: str, body: str) -> Path:
    """A shared library that runs `body` when it is loaded."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source, path = folder / f"{name}.c", folder / f"{name}.so"
    source.write_text(f"int sleep(int);\n__attribute__((constructor)) void load(void) {{ {body} }}")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", path, source], check=True)
    return path


def test_crashing_and_hanging_programs_are_given_up_and_the_others_measured(
    bench: Setup, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "VISIT_TIMEOUT_S", 6.0)
    monkeypatch.setattr(local, "STRIKES", 1)
    crash = library(tmp_path, "crash", "*(volatile int *)0 = 1;")
    hang = library(tmp_path, "hang", "for (;;) sleep(1);")
    checks = []
    with device(bench, reference_s=1e-3) as here:
        check = here.check
        monkeypatch.setattr(here, "check", lambda: checks.append(check()))
        found = here.measure(
            [
                program,
                Program(crash, program.kernels, program.sizes),
                Program(hang, program.kernels, program.sizes),
                program,
            ],
            QUICK,
            seed=3,
        )
    first, crashed, hung, last = found
    assert isinstance(first, Latency)
    assert isinstance(last, Latency)
    assert len(first.visits_ms) == len(last.visits_ms) == QUICK.rounds
    assert crashed == "the process running it died"
    assert hung == "took longer than 6 s"
    assert len(checks) == 2, "the device is looked at before a program is blamed"


def test_one_failure_is_forgiven(
    bench: Setup, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    with device(bench) as here:
        call, failures = here._call, ["once"]

        def sometimes(function: object, *arguments: object) -> object:
            if function is local.visit_program and failures:
                failures.pop()
                raise local._CandidateError("a hiccup")
            return call(function, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(here, "_call", sometimes)
        [found] = here.measure([program], QUICK, seed=0)
    assert isinstance(found, Latency)
    assert len(found.visits_ms) == QUICK.rounds - 1


def test_a_program_that_was_never_run_has_a_reason(
    bench: Setup, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    with device(bench, reference_s=1.0) as here:

        def fails(function: object, *arguments: object) -> object:
            raise local._CandidateError("a hiccup")

        monkeypatch.setattr(here, "_call", fails)
        monkeypatch.setattr(here, "check", lambda: None)
        assert here.measure([program], local.Protocol(1, 1, 1.0, 1.0), seed=0) == ["a hiccup"]


def test_a_cut_off_kernel_does_not_take_this_process_with_it(
    bench: Setup, program: Program, tmp_path: Path
) -> None:
    kernel = program.kernels[0]
    cut = tmp_path / "cut.so"
    cut.write_bytes(kernel.path.read_bytes()[:1500])
    with device(bench, reference_s=1e-3) as here:
        here.calibration = [(str(cut), kernel.sizes)]
        with pytest.raises(DeviceError, match="calibration kernels") as caught:
            here.check()
    assert "\n" not in caught.value.message


def test_a_second_measuring_process_is_told_to_wait(bench: Setup) -> None:
    with device(bench), pytest.raises(BusyError, match="measuring"), device(bench):
        pass
    with device(bench):
        pass  # the lock was given back


def test_the_lock_of_another_user_is_honoured(tmp_path: Path, bench: Setup) -> None:
    lock = tmp_path / "ofatvm-measuring.lock"
    lock.touch()
    lock.chmod(0o444)
    with device(bench):
        pass


def test_a_reference_is_taken_once_and_kept(bench: Setup) -> None:
    with device(bench) as here:
        reference = here.kernel_reference.get()
        assert 1e-6 < reference < 1
        here.time_kernels(list(bench.library.require(CALIBRATION).values()))
        assert here.kernel_reference.get() == reference
