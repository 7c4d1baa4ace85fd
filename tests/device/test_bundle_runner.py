"""A network in a child process: what it answers, and every way it can fail."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from ofatvm.device import bundle_runner as module
from ofatvm.device.bundle_runner import run_bundle, run_images
from ofatvm.errors import MeasurementError, MissingInputError
from ofatvm.files import scratch
from tests.bundle.making import Tiny, compile_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return compile_tiny(tmp_path_factory.mktemp("tiny"))


def library(folder: Path, body: str) -> Path:
    """A shared library that does `body` when it is loaded."""
    source = folder / "x.c"
    source.write_text(
        "#include <signal.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n"
        f"__attribute__((constructor)) static void start(void) {{ {body} }}"
    )
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "x.so", source], check=True)
    return folder / "x.so"


def test_it_answers_and_times(tiny: Tiny) -> None:
    done = run_bundle(tiny.model, tiny.given, threads=1, timeout_s=60, calls=7)
    assert np.abs(done.output - tiny.result).max() < 1e-5
    assert len(done.samples_ms) == 7
    assert all(0 < sample < 1e3 for sample in done.samples_ms)


def test_every_image_is_a_call_of_its_own(tiny: Tiny) -> None:
    images = np.concatenate([tiny.given, 2 * tiny.given, -tiny.given])
    outputs = run_images(tiny.model, images, threads=1, timeout_s=60)
    wanted = np.concatenate([tiny.result, 2 * tiny.result, -tiny.result])
    assert outputs.shape == wanted.shape
    assert np.abs(outputs - wanted).max() < 1e-5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_no_numbers_are_an_error(tiny: Tiny, bad: float) -> None:
    images = np.concatenate([tiny.given, tiny.given])
    images[1, 0, 0, 0] = bad
    with pytest.raises(MeasurementError, match="is not finite for 1 of 2 inputs"):
        run_images(tiny.model, images, threads=1, timeout_s=60)
    with pytest.raises(MeasurementError, match="is not finite for 1 of 1 inputs"):
        run_bundle(tiny.model, images[1:], threads=1, timeout_s=60, calls=1)


def test_images_use_no_more_threads_than_there_are_cores(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    run = module._finished_child

    def watched(model: Path, given: np.ndarray, threads: int, *others: Any) -> Any:
        used.append(threads)
        return run(model, given, threads, *others)

    monkeypatch.setattr(module, "_finished_child", watched)
    cores = len(os.sched_getaffinity(0))
    for threads in (1, cores + 6):
        run_images(tiny.model, tiny.given, threads=threads, timeout_s=60)
    assert used == [1, cores]


@pytest.mark.parametrize(
    ("body", "message"),
    [("raise(SIGSEGV);", "crashed .SIGSEGV."), ("_exit(0);", "left no result")],
)
def test_images_that_crash_it_are_one_error(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(MeasurementError, match=message):
        run_images(library(tmp_path, body), np.zeros((2, 5), np.float32), threads=1, timeout_s=60)


def test_images_that_take_too_long_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="took longer than 2 s"):
        run_images(
            library(tmp_path, "pause();"), np.zeros((2, 5), np.float32), threads=1, timeout_s=2
        )


def test_a_network_ends_with_a_caller_that_is_killed(tmp_path: Path) -> None:
    model = library(tmp_path, 'fclose(fopen("started", "w")); for (;;) pause();')
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    lines = [
        "from pathlib import Path; import numpy as np",
        "from ofatvm.device.bundle_runner import run_bundle",
        f"run_bundle(Path({str(model)!r}), np.zeros(1, np.float32), threads=1, timeout_s=900)",
    ]
    caller = subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines)], env=os.environ | {"TMPDIR": str(temporary)}
    )
    try:
        until(lambda: list(temporary.glob("*/started")))
        [network] = psutil.Process(caller.pid).children()
    finally:
        caller.kill()
        caller.wait()
    until(lambda: not network.is_running() or network.status() == psutil.STATUS_ZOMBIE)
    assert len(list(temporary.iterdir())) == 1
    with scratch("test", temporary):
        pass
    assert list(temporary.iterdir()) == []


def until(done: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_wrong_input_is_a_failure(tiny: Tiny) -> None:
    with pytest.raises(MeasurementError, match=r"model.so failed: .*"):
        run_bundle(tiny.model, np.zeros((1, 5), np.float32), threads=1, timeout_s=60)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise(SIGSEGV);", "crashed .SIGSEGV."),
        ("raise(SIGILL);", "crashed .SIGILL."),
        ("abort();", "crashed .SIGABRT."),
        ("_exit(0);", "left no result"),
        ("_exit(7);", "model.so failed"),
        ('for (;;) { puts("spam spam spam spam spam spam spam"); }', "crashed .SIGXFSZ."),
        ("", "model.so failed: .*vm_load_executable"),
    ],
)
def test_code_that_does_not_work_is_one_error(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(MeasurementError, match=message) as caught:
        run_bundle(
            library(tmp_path, body),
            np.zeros((1, 5), np.float32),
            threads=1,
            timeout_s=60,
            built_with="0.1",
        )
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 1


def test_another_tvm_is_named_in_the_hint(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError) as caught:
        run_bundle(
            library(tmp_path, "abort();"),
            np.zeros(1, np.float32),
            threads=1,
            timeout_s=60,
            built_with="0.1",
        )
    assert caught.value.hint.startswith("it was compiled by TVM 0.1, this machine has ")


def test_a_hang_ends_with_all_its_children(tmp_path: Path) -> None:
    mark = f"{time.time_ns() % 10**7 + 10**6}"
    path = library(tmp_path, f'if (!fork()) execlp("sleep", "sleep", "{mark}", NULL); pause();')
    started = time.monotonic()
    with pytest.raises(MeasurementError, match="took longer than 3 s"):
        run_bundle(path, np.zeros(1, np.float32), threads=1, timeout_s=3)
    assert time.monotonic() - started < 10
    # A process that was killed may still be seen for a moment.
    until(
        lambda: not any(mark in (p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"]))
    )


def test_no_runtime_is_missing_input(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tvm_ffi.py").write_text("raise ImportError('no libtvm_ffi.so')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MissingInputError, match=r"no TVM runtime: no libtvm_ffi.so"):
        run_bundle(tiny.model, tiny.given, threads=1, timeout_s=60)


def test_no_runtime_library_is_missing_input(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tvm").mkdir()
    (tmp_path / "tvm" / "__init__.py").write_text("raise RuntimeError('nothing imports this')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MissingInputError, match=r"no TVM runtime: .*tvm_runtime"):
        run_bundle(tiny.model, tiny.given, threads=1, timeout_s=60)
