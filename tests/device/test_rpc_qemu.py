"""A board of another architecture: TVM's own aarch64 runtime and our server, run by qemu-user.

The root folder with an aarch64 Python is made by scripts/arm64_root.py from Debian's packages and
the pinned wheels (170 MB, once): OFATVM_ARM64_ROOT, or a folder in the cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ofatvm.compiler.isa import vector_unit
from ofatvm.device import rpc_board
from ofatvm.device.rpc import RpcDevice
from ofatvm.device.rpc_check import check_board
from ofatvm.device.timing import Latency, Protocol
from ofatvm.elf import elf_machine
from ofatvm.paths import cache_dir
from ofatvm.pipeline.measure import programs_for
from ofatvm.pipeline.setup import resolve_target
from ofatvm.spaces import find_space
from tests.rpc_boards import KEY, Stage, until
from tests.workbench import real_setup

pytestmark = [pytest.mark.slow, pytest.mark.qemu, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def arm64_root() -> Path:
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed")
    root = Path(os.environ.get("OFATVM_ARM64_ROOT") or cache_dir() / "arm64-root")
    made = subprocess.run([sys.executable, ROOT / "scripts" / "arm64_root.py", root], check=False)
    if made.returncode:
        pytest.skip("the arm64 root folder cannot be made here")
    return root


@pytest.fixture(scope="module")
def stage(arm64_root: Path) -> Iterator[Stage]:
    stage = Stage()
    try:
        words = ["--key", KEY, "--threads", "1", "--tracker", f"127.0.0.1:{stage.port}"]
        python = arm64_root / "usr" / "bin" / "python3.11"
        stage.processes.append(
            subprocess.Popen(
                ["qemu-aarch64", "-L", arm64_root, python, rpc_board.__file__, *words],
                env={"OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"},
                stdout=subprocess.DEVNULL,
            )
        )
        until(lambda: stage.free() == 1, 600.0)
        yield stage
    finally:
        stage.stop()


def test_code_for_a_cortex_a72_is_measured_on_an_aarch64_board(
    stage: Stage, tmp_path: Path
) -> None:
    target = resolve_target("llvm -mcpu=cortex-a72", 1)
    setup = replace(
        real_setup(tmp_path),
        target=target,
        unit=vector_unit(target),
        space=find_space("small28"),
    )
    [program] = programs_for(setup, [setup.space.smallest()])
    kernel = program.kernels[0]
    assert elf_machine(program.path) == "aarch64"
    quick = Protocol(processes=1, rounds=2, block_ms=4.0, warmup_ms=1.0)
    with RpcDevice(stage.address, 1, [kernel], 1e-3, timeout_s=300.0) as board:
        [found] = board.measure([program], quick, seed=0)
        times = board.time_kernels([kernel])
    assert isinstance(found, Latency)
    assert found.raw_ms > 0
    assert times[kernel.digest] > 0


def test_a_check_of_it(stage: Stage) -> None:
    until(lambda: stage.free() == 1)
    found = check_board(stage.address)
    assert found.machine == "aarch64"
    assert found.tvm == rpc_board.versions()["tvm"]
    assert found.kernel_ms, found.note
