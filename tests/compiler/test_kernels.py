"""A kernel is compiled once per target and schedule; a damaged cache is an empty cache."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import Executor, Future, process
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofatvm.compiler import kernels, link
from ofatvm.compiler.base import library_digest
from ofatvm.compiler.kernels import KernelLibrary, is_compiled, kernel_digest
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.schedule import ScheduleConfig, kernel_shapes, packed_shape
from ofatvm.compiler.space import default_config
from ofatvm.errors import CompileError, MissingInputError
from tests.workbench import TARGET, UNIT, InlineExecutor, in_a_row, packed, run_flat

SMALL = Workload("pointwise", (4, 4, 16), (4, 4, 32), activation="relu")
FULL = Workload("pointwise", (5, 4, 10), (5, 4, 24), scaled=True, residual=True)
ODD = Workload("depthwise", (5, 7, 13), (5, 7, 13), 3, 1, "h_swish")
BARE = Workload("dense", (40,), (32,), bias=False)
MEAN = Workload("mean", (4, 4, 16), (16,), bias=False)
IMPOSSIBLE = ScheduleConfig(rows=4, columns=1, groups=1, lanes=4, block_rows=0)


class Refuse(Executor):
    """No job may come here."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        raise AssertionError(f"{fn} was submitted")


class Dying(Executor):
    """What a pool does whose worker the system has killed."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_exception(process.BrokenProcessPool("a process died"))
        return future


def library(
    folder: Path,
    executor: Executor | None = None,
    records: dict[str, ScheduleConfig] | None = None,
) -> KernelLibrary:
    return KernelLibrary(folder, TARGET, UNIT, records or {}, executor or InlineExecutor())


def test_kernels_are_compiled_once(tmp_path: Path) -> None:
    first = library(tmp_path).require([SMALL, MEAN, SMALL])
    assert set(first) == {SMALL, MEAN}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = library(tmp_path, Refuse())
    assert again.require([MEAN, SMALL]) == first
    assert again.missing([SMALL, MEAN]) == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    [entry] = tmp_path.rglob("entry-*.o")
    kernels = [path for k in first.values() for path in (k.path, k.object_path)]
    assert set(before) == {tmp_path / TARGET.fingerprint, entry, *kernels}


def killed_while_it_links(folder: str) -> None:
    kernels.link = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
    library(Path(folder)).require([SMALL])


def test_what_a_killed_writer_left_is_deleted(tmp_path: Path) -> None:
    writer = multiprocessing.get_context("spawn").Process(
        target=killed_while_it_links, args=(str(tmp_path),)
    )
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    home = tmp_path / TARGET.fingerprint
    whole = {path.name for path in home.iterdir() if path.name.startswith("entry-")}
    assert {path.name for path in home.iterdir()} - whole, "it left something"
    kernel = library(tmp_path).require([SMALL])[SMALL]
    assert {path.name for path in home.iterdir()} == {
        *whole,
        kernel.path.name,
        kernel.object_path.name,
    }


@pytest.mark.parametrize("workload", [SMALL, FULL, ODD, BARE, MEAN], ids=lambda w: w.key)
def test_a_kernels_own_program_does_what_the_workload_says(
    tmp_path: Path,
    reference: Callable[[Workload, list[np.ndarray]], np.ndarray],
    workload: Workload,
) -> None:
    kernel = library(tmp_path).require([workload])[workload]
    rng = np.random.default_rng(0)
    shapes = workload.argument_shapes[:-1]
    arguments = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    expected = reference(workload, arguments)
    if workload.is_compute:
        arguments[1] = packed(arguments[1], kernel.config.channels)
        assert arguments[1].shape == packed_shape(workload, kernel.config)
    assert [a.shape for a in arguments] == kernel_shapes(workload, kernel.config)[:-1]
    held = 1 + (1 + workload.bias if workload.is_compute else 0)
    groups = (arguments[0].ravel(), in_a_row(arguments[1:held]), in_a_row(arguments[held:]))
    for repeats in (1, 3):
        out = run_flat(kernel.path, kernel.sizes, *groups, repeats=repeats)
        np.testing.assert_allclose(out.reshape(workload.out_shape), expected, rtol=1e-4, atol=1e-5)


def test_everything_that_changes_code_changes_the_digest() -> None:
    config = default_config(SMALL, UNIT)
    digests = [
        kernel_digest(SMALL, config, TARGET),
        kernel_digest(replace(SMALL, residual=True), config, TARGET),
        kernel_digest(SMALL, replace(config, parallel=0), TARGET),
        kernel_digest(SMALL, config, replace(TARGET, mcpu="x86-64-v3")),
        kernel_digest(SMALL, config, replace(TARGET, mattr=("+avx",))),
    ]
    assert len(set(digests)) == len(digests)
    assert kernel_digest(SMALL, config, replace(TARGET, notes="other words")) == digests[0]


def test_targets_do_not_share_kernels(tmp_path: Path) -> None:
    other = KernelLibrary(tmp_path, replace(TARGET, mcpu="x86-64-v3"), UNIT, {}, Refuse())
    ours = library(tmp_path).kernel(SMALL)
    assert other.kernel(SMALL).path.parent != ours.path.parent
    assert other.kernel(SMALL).symbol != ours.symbol


def test_a_record_chooses_the_schedule(tmp_path: Path) -> None:
    config = replace(default_config(SMALL, UNIT), parallel=0)
    tuned = library(tmp_path, records={SMALL.key: config}).kernel(SMALL)
    plain = library(tmp_path).kernel(SMALL)
    assert (tuned.config, tuned.tuned, plain.tuned) == (config, True, False)
    assert library_digest([tuned]) != library_digest([plain])
    assert library_digest([plain, plain]) == library_digest([plain])


@pytest.mark.parametrize(
    ("suffix", "keep"),
    # What is last in a shared object is not loaded: without it, the kernel still works.
    [*(product([".so", ".o"], [0, 10, 70, 0.5, -1])), (".o", 0.95)],
)
def test_a_damaged_kernel_is_compiled_again(tmp_path: Path, keep: float, suffix: str) -> None:
    kernel = library(tmp_path).require([MEAN])[MEAN]
    assert is_compiled(kernel)
    path = kernel.path.with_suffix(suffix)
    data = path.read_bytes()
    length = int(len(data) * keep) if 0 < keep < 1 else int(keep)
    path.write_bytes(data[:length] if keep >= 0 else b"\0" * len(data))
    assert library(tmp_path).missing([MEAN]) == [kernel]
    library(tmp_path).require([MEAN])
    assert is_compiled(kernel)
    assert path.stat().st_size == len(data)


@pytest.mark.parametrize("suffix", [".so", ".o"])
def test_half_a_kernel_is_none(tmp_path: Path, suffix: str) -> None:
    kernel = library(tmp_path).require([MEAN])[MEAN]
    kernel.path.with_suffix(suffix).unlink()
    assert library(tmp_path).missing([MEAN]) == [kernel]


def test_a_damaged_entry_is_compiled_again(tmp_path: Path) -> None:
    library(tmp_path).require([MEAN])
    [entry] = tmp_path.rglob("entry-*.o")
    data = entry.read_bytes()
    entry.write_bytes(data[: len(data) // 2])
    library(tmp_path).require([SMALL])
    assert len(entry.read_bytes()) == len(data)


def test_nothing_temporary_stays(tmp_path: Path) -> None:
    library(tmp_path).require([SMALL, MEAN])
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_without_ld_ziglang_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    library(tmp_path).require([SMALL])
    assert list(tmp_path.rglob("*.so"))


def test_without_a_linker_one_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(link, "zig_path", lambda: None)
    with pytest.raises(MissingInputError, match="no ld found") as caught:
        library(tmp_path).require([SMALL])
    assert "binutils" in caught.value.hint
    assert not list(tmp_path.rglob("*.so"))


def test_a_linker_that_fails_is_a_compile_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "ld"
    tool.write_text("#!/bin/sh\necho 'ld: out of ideas' >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(CompileError, match="out of ideas"):
        library(tmp_path).require([SMALL])


def test_a_schedule_that_does_not_fit_is_named_with_its_workload(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=SMALL.key) as caught:
        library(tmp_path, records={SMALL.key: replace(IMPOSSIBLE, lanes=7)}).require([SMALL])
    assert "\n" not in caught.value.message


def test_a_compiler_that_is_killed_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="died"):
        library(tmp_path, Dying()).require([SMALL])
