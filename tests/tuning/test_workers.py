from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ofatvm.compiler.isa import host_target, vector_unit
from ofatvm.compiler.kernels import kernel_sizes
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.compiler.space import default_config
from ofatvm.errors import BusyError, CompileError, DeviceError, MissingInputError
from ofatvm.tuning import builders
from ofatvm.tuning import workers as module
from ofatvm.tuning.builders import Builders
from ofatvm.tuning.workers import Timing, Workers, time_kernel

SMALL = Workload("pointwise", (4, 4, 16), (4, 4, 32), activation="relu")
DEPTHWISE = Workload("depthwise", (8, 8, 16), (8, 8, 16), 3)
IMPOSSIBLE = ScheduleConfig(rows=4, columns=1, groups=1, lanes=4, block_rows=1)
QUICK = Timing(repeats=2, sample_ms=1)
TIMEOUT_S = 5.0
ON_LOAD = "}\n__attribute__((constructor)) void load(void) {"


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    """One set of workers for the whole module: what one test breaks must not harm the next."""
    host = host_target(threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RUN_TIMEOUT_S", TIMEOUT_S)
        with Workers(host, vector_unit(host), builders=1) as running:
            yield running


def assert_works(workers: Workers) -> None:
    config = default_config(SMALL, workers.unit)
    [(path, error)] = workers.build([(SMALL, config)])
    assert error == ""
    assert path is not None
    seconds, error = workers.run(path, kernel_sizes(SMALL, config), QUICK)
    assert error == ""
    assert len(seconds) == 2
    assert all(0 < second < 0.1 for second in seconds)
    assert not path.exists(), "a timed candidate is deleted"


def test_a_kernel_is_built_and_timed(workers: Workers) -> None:
    assert_works(workers)


def test_a_candidate_that_does_not_build_is_one_error(workers: Workers) -> None:
    good = default_config(SMALL, workers.unit)
    built = workers.build([(DEPTHWISE, IMPOSSIBLE), (SMALL, good)])
    (path, error), (other, none) = built
    assert path is None
    assert error.startswith("build: ")
    assert "\n" not in error
    assert len(error) < 200
    assert (other is not None, none) == (True, "")


def test_a_slow_candidate_gets_one_sample(workers: Workers) -> None:
    config = default_config(SMALL, workers.unit)
    [(path, _)] = workers.build([(SMALL, config)])
    assert path is not None
    timing = replace(QUICK, best_s=0.0, give_up=1.0)
    seconds, error = workers.run(path, kernel_sizes(SMALL, config), timing)
    assert (len(seconds), error) == (1, "")


def test_a_candidate_that_raises_is_one_error(workers: Workers) -> None:
    config = default_config(SMALL, workers.unit)
    [(path, _)] = workers.build([(SMALL, config)])
    assert path is not None
    seconds, error = workers.run(path, [1] * 3, QUICK)
    assert seconds == ()
    assert error.startswith("run: ")
    assert "\n" not in error
    assert_works(workers)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("*(volatile int*)8 = 0;", "run: the worker process died"),
        ("for (;;) {}", "run: took too long and was killed"),
        pytest.param("__builtin_trap();", "run: the worker process died", marks=pytest.mark.slow),
        pytest.param("exit(0);", "run: the worker process died", marks=pytest.mark.slow),
        pytest.param(f"{ON_LOAD} abort();", "run: the worker process died", marks=pytest.mark.slow),
        pytest.param(f"{ON_LOAD} for (;;) {{}}", "run: took too long", marks=pytest.mark.slow),
    ],
    ids=["segfault", "hang", "illegal instruction", "exit", "abort on load", "hang on load"],
)
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_candidate_that_crashes_or_hangs_costs_itself_alone(
    workers: Workers, tmp_path: Path, body: str, said: str
) -> None:
    source = tmp_path / "bad.c"
    source.write_text(
        "#include <stdlib.h>\n"
        f"int __tvm_ffi_forward(void* self, void* args, int count, void* result) {{ {body}\n}}\n"
    )
    path = tmp_path / "bad.so"
    subprocess.run(["cc", "-w", "-shared", "-fPIC", "-o", path, source], check=True)
    seconds, error = workers.run(path, [1] * 4, QUICK)
    assert seconds == ()
    assert error.startswith(said)
    assert_works(workers)


def test_what_is_no_module_is_one_error(workers: Workers, tmp_path: Path) -> None:
    path = tmp_path / "bad.so"
    path.write_bytes(b"not an ELF file")
    for candidate in (path, tmp_path / "missing.so"):
        seconds, error = workers.run(candidate, [1] * 4, QUICK)
        assert seconds == ()
        assert error.startswith("run: ")
    assert_works(workers)


def test_without_a_linker_nothing_counts_as_a_failed_candidate(tmp_path: Path) -> None:
    host = host_target(threads=1)
    job = (SMALL, default_config(SMALL, vector_unit(host)), host)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builders, "set_threads", _no_linker)
        with (
            Builders(1) as running,
            pytest.raises(MissingInputError, match=r"^no ld found$"),
        ):
            running.build(module.build_candidate, [job])


def test_a_second_tuning_process_is_told_to_wait(workers: Workers) -> None:
    with (
        pytest.raises(BusyError, match="another ofatvm process is measuring"),
        Workers(workers.target, workers.unit, builders=1),
    ):
        pass


def test_a_runner_killed_from_outside_does_not_fail_its_candidate(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "killed"
    monkeypatch.setattr(module, "time_kernel", partial(_killed_once, str(flag)))
    config = default_config(SMALL, workers.unit)
    [(path, _)] = workers.build([(SMALL, config)])
    assert path is not None
    samples, error = workers.run(path, kernel_sizes(SMALL, config), Timing())
    assert flag.exists()
    assert (error, min(samples) > 0) == ("", True)


def test_when_even_the_reference_kernel_dies_no_candidate_is_blamed(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = default_config(SMALL, workers.unit)
    [(path, _)] = workers.build([(SMALL, config)])
    assert path is not None
    monkeypatch.setattr(module, "time_kernel", _dies)
    with pytest.raises(DeviceError, match="not even the reference kernel"):
        workers.run(path, kernel_sizes(SMALL, config), Timing())
    monkeypatch.undo()
    assert_works(workers)


def test_out_of_time_on_a_machine_that_hangs_no_candidate_is_blamed(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = default_config(SMALL, workers.unit)
    [(path, _)] = workers.build([(SMALL, config)])
    assert path is not None
    monkeypatch.setattr(workers, "_ran", lambda *_: (None, "run: took too long and was killed"))
    with pytest.raises(DeviceError, match="not even the reference kernel"):
        workers.run(path, kernel_sizes(SMALL, config), Timing())


@pytest.mark.parametrize("loss", ["the worker process died", "took too long and was killed"])
def test_a_lost_build_is_a_failed_candidate_only_where_the_reference_builds(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, loss: str
) -> None:
    asked: list[Workload] = []
    well = [True]

    def build(_: object, jobs: Any) -> list[tuple[Path | None, str]]:
        asked.extend(workload for workload, *_ in jobs)
        if not well[0] or jobs[0][0] != module.REFERENCE:
            return [(None, f"build: {loss}")]
        (tmp_path / "k.so").touch()
        return [(tmp_path / "k.so", "")]

    monkeypatch.setattr(workers._builders, "build", build)
    job = (SMALL, default_config(SMALL, workers.unit))
    assert workers.build([job]) == [(None, f"build: {loss}")]
    assert asked == [SMALL, module.REFERENCE]
    assert not (tmp_path / "k.so").exists()
    well[0] = False
    with pytest.raises(CompileError, match="not even the reference kernel builds"):
        workers.build([job])


def _killed_once(flag: str, *arguments: Any) -> Any:
    import os
    import signal

    if not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return time_kernel(*arguments)


def _dies(*arguments: Any) -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def _no_linker(threads: int) -> None:
    import os

    from ofatvm.compiler import link

    os.environ["PATH"] = ""
    link.zig_path = lambda: None
