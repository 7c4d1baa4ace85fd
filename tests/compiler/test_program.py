"""A program's threads start once, share the parallel steps, and never run ahead of each other.

The steps here are small functions in LLVM IR that count who called them, and when.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ofatvm.compiler.link import link_host
from ofatvm.compiler.llvm import compile_ir
from ofatvm.compiler.plan import kernel_calls
from ofatvm.compiler.program import Base, Step, compile_entry, compile_program
from ofatvm.compiler.relax import build_program
from ofatvm.elf import is_whole_object
from ofatvm.graph import operator_graph
from ofatvm.pipeline.setup import Setup
from tests.conftest import ROOT
from tests.workbench import TARGET, run_flat

# count: adds one to its argument, whoever calls. tasks: writes how many threads there are.
# tick: adds one to the caller's own cell. watch: compares the caller's cell with all others', and
# counts in its second argument how often one was behind or ahead. cells are 64 bytes apart.
STEPS = """
define void @count(i32 %task, i32 %tasks, ptr %cell) {
  %1 = atomicrmw fadd ptr %cell, float 1.0 seq_cst
  ret void
}
define void @tasks(i32 %task, i32 %tasks, ptr %cell) {
  %n = sitofp i32 %tasks to float
  store atomic float %n, ptr %cell seq_cst, align 4
  ret void
}
define void @tick(i32 %task, i32 %tasks, ptr %cells) {
  %at = shl i32 %task, 4
  %own = getelementptr float, ptr %cells, i32 %at
  %old = load float, ptr %own
  %new = fadd float %old, 1.0
  store float %new, ptr %own
  ret void
}
define void @watch(i32 %task, i32 %tasks, ptr %cells, ptr %errors) {
entry:
  %at = shl i32 %task, 4
  %own = getelementptr float, ptr %cells, i32 %at
  %mine = load float, ptr %own
  br label %look
look:
  %i = phi i32 [ 0, %entry ], [ %next, %more ]
  %there = shl i32 %i, 4
  %other = getelementptr float, ptr %cells, i32 %there
  %theirs = load float, ptr %other
  %same = fcmp oeq float %mine, %theirs
  br i1 %same, label %more, label %wrong
wrong:
  %old = atomicrmw fadd ptr %errors, float 1.0 seq_cst
  br label %more
more:
  %next = add i32 %i, 1
  %end = icmp sge i32 %next, %tasks
  br i1 %end, label %done, label %look
done:
  ret void
}
define void @copy(i32 %task, i32 %tasks, ptr %from, ptr %to) {
  %x = load float, ptr %from
  %y = fadd float %x, 1.0
  store float %y, ptr %to
  ret void
}
"""
ERRORS, TASKS, CELLS = 4, 8, 1024
MANY = 1000
At = tuple[Base, int]
WATCH = Step("watch", True, (("workspace", CELLS), ("workspace", ERRORS)))
TICK = Step("tick", True, (("workspace", CELLS),))


def step(symbol: str, parallel: bool, *arguments: At) -> Step:
    return Step(symbol, parallel, arguments)


PROGRAMS = {
    "mixed": [
        step("tasks", True, ("workspace", TASKS)),
        step("count", False, ("workspace", 64)),
        step("count", True, ("workspace", 128)),
        step("count", False, ("workspace", 192)),
        step("count", False, ("workspace", 192)),
        step("count", True, ("workspace", 256)),
        step("copy", False, ("workspace", 192), ("out", 0)),
    ],
    "serial": [
        step("count", False, ("workspace", 64)),
        step("copy", False, ("x", 0), ("workspace", 128)),
        step("copy", False, ("workspace", 128), ("out", 0)),
    ],
    "single": [step("copy", True, ("weights", 8), ("out", 4))],
    "one-serial": [step("copy", False, ("weights", 8), ("out", 4))],
    "barrier": [TICK, WATCH, WATCH],
    # The serial step comes between, and only one thread does it.
    "turns": [TICK, step("count", False, ("workspace", 64)), WATCH],
    "serial-last": [WATCH, TICK, step("count", False, ("workspace", 64))],
    "serial-first": [step("count", False, ("workspace", 64)), WATCH, TICK],
}
JOBS = [f"{name}:{repeats}" for name in PROGRAMS for repeats in (1, 3, MANY)]
JOBS += ["network:1", "network:3"]
Ran = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, bench: Setup) -> Path:
    """All programs, linked, and what they are given."""
    import tvm

    path = tmp_path_factory.mktemp("programs")
    compile_ir(STEPS, TARGET, path / "steps.o")
    compile_entry(tvm.target.Target(TARGET.to_dict()), path / "entry.o")
    for name, steps in PROGRAMS.items():
        compile_program(steps, TARGET, path / f"{name}.o")
        assert is_whole_object(path / f"{name}.o")
        objects = [str(path / f"{part}.o") for part in ("entry", name, "steps")]
        link_host(str(path / f"{name}.so"), objects)
        _give(path / f"{name}.npz", np.ones(64), np.ones(64), np.zeros(4096), np.zeros(64))
    graph = operator_graph(bench.space.smallest())
    kernels = bench.library.require({call.workload for call in kernel_calls(graph)})
    sizes = build_program(graph, kernels, TARGET, path / "network.so").sizes
    rng = np.random.default_rng(0)
    x, weights = (rng.standard_normal(size) * 0.1 for size in sizes[:2])
    _give(path / "network.npz", x, weights, *(np.full(size, np.nan) for size in sizes[2:]))
    return path


def _give(path: Path, *arrays: np.ndarray) -> None:
    names = ("x", "weights", "workspace", "out")
    floats = [array.astype(np.float32) for array in arrays]
    np.savez(path, **dict(zip(names, floats, strict=True)))


@pytest.fixture(scope="module", params=[1, 2, 4], ids=lambda count: f"{count} threads")
def threads(request: pytest.FixtureRequest, folder: Path) -> int:
    """All programs have run with so many threads; 4 are more than many machines have cores."""
    count: int = request.param
    command = [sys.executable, "-m", "tests.compiler.run_programs", str(count), str(folder), *JOBS]
    environment = {**os.environ, "TVM_NUM_THREADS": str(count)}
    subprocess.run(command, check=True, cwd=ROOT, env=environment, timeout=240)
    return count


@pytest.fixture
def ran(folder: Path, threads: int) -> Ran:
    def load(name: str, repeats: int, what: str = "workspace") -> np.ndarray:
        found: np.ndarray = np.load(folder / f"{name}-{threads}-{repeats}-{what}.npy")
        return found

    return load


def number(array: np.ndarray, offset: int) -> float:
    """The number at a byte offset."""
    return float(array[offset // 4])


@pytest.mark.parametrize("repeats", [1, 3, MANY])
def test_serial_steps_run_once_and_parallel_ones_once_a_thread(
    ran: Ran, threads: int, repeats: int
) -> None:
    mixed = ran("mixed", repeats)
    assert number(mixed, TASKS) == threads
    assert number(mixed, 64) == repeats
    assert number(mixed, 192) == 2 * repeats
    assert number(mixed, 128) == number(mixed, 256) == threads * repeats
    assert ran("mixed", repeats, "out")[0] == 2 * repeats + 1


@pytest.mark.parametrize("repeats", [1, 3, MANY])
@pytest.mark.parametrize("name", ["barrier", "turns", "serial-last", "serial-first"])
def test_no_thread_runs_ahead(ran: Ran, threads: int, name: str, repeats: int) -> None:
    after = ran(name, repeats)
    cells = after[CELLS // 4 :: 16]
    assert list(cells[:threads]) == [repeats] * threads
    assert not cells[threads:].any()
    assert number(after, ERRORS) == 0
    assert number(after, 64) == (0 if name == "barrier" else repeats)


@pytest.mark.parametrize("repeats", [1, 3])
def test_serial_steps_alone_are_a_program(ran: Ran, repeats: int) -> None:
    assert number(ran("serial", repeats), 64) == repeats
    assert ran("serial", repeats, "out")[0] == 3


@pytest.mark.parametrize("name", ["single", "one-serial"])
def test_arguments_are_places_in_any_tensor(ran: Ran, name: str) -> None:
    out = ran(name, 1, "out")
    assert list(out[:3]) == [0, 2, 0]
    np.testing.assert_array_equal(ran(name, 3, "out"), out)


def test_a_network_gives_the_same_with_any_number_of_threads(
    ran: Ran, bench: Setup, folder: Path, threads: int
) -> None:
    given = np.load(folder / "network.npz")
    names = ("x", "weights", "workspace")
    sizes = [given[name].size for name in (*names, "out")]
    here = run_flat(folder / "network.so", sizes, *(given[name] for name in names))
    assert np.isfinite(here).all()
    assert here.std() > 0
    for repeats in (1, 3):
        np.testing.assert_array_equal(ran("network", repeats, "out"), here)


def test_embedded_weights_take_the_place_of_the_argument(tmp_path: Path, folder: Path) -> None:
    weights = tmp_path / "it's a name with spaces.bin"
    np.arange(16, dtype=np.float32).tofile(weights)
    compile_program(PROGRAMS["single"], TARGET, tmp_path / "own.o", weights=weights)
    objects = [folder / "entry.o", tmp_path / "own.o", folder / "steps.o"]
    link_host(str(tmp_path / "own.so"), [str(path) for path in objects])
    nothing = np.zeros(4, np.float32)
    out = run_flat(tmp_path / "own.so", (4, 4, 4, 4), nothing, nothing, nothing)
    assert out[1] == 3
