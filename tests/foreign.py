"""Targets of other machines, for tests that compile for them and run what comes out under qemu."""

from __future__ import annotations

from pathlib import Path

import pytest

from ofatvm.pipeline.setup import Setup
from ofatvm.target import Target
from tests.workbench import InlineExecutor

A72 = Target(name="cortex-a72", mtriple="aarch64-linux-gnu", mcpu="cortex-a72", num_cores=2)
ARMV7 = Target(
    name="cortex-a7",
    mtriple="armv7-linux-gnueabihf",
    mcpu="cortex-a7",
    mfloat_abi="hard",
    mattr=("+neon", "+vfp4"),
    num_cores=2,
)
RISCV64 = Target(
    name="riscv64",
    mtriple="riscv64-linux-gnu",
    mcpu="generic-rv64",
    mabi="lp64d",
    mattr=("+m", "+a", "+f", "+d", "+c"),
    num_cores=2,
)


def foreign_setup(target: Target, workspace: Path) -> Setup:
    """The small space for a target whose records are not looked at."""
    from ofatvm.compiler.isa import vector_unit
    from ofatvm.spaces import find_space

    space = find_space("small28")
    folder = workspace / "no records"
    executor = InlineExecutor()
    return Setup(target, vector_unit(target), space, workspace, folder, executor, "simulated")


def require_emulation(target: Target) -> None:
    """Skip the test that calls this where the target's code cannot be run, with the reason."""
    from ofatvm.device.qemu import why_not_emulated
    from ofatvm.device.runtime import tvm_runtime
    from ofatvm.elf import machine_of
    from ofatvm.errors import MissingInputError

    reason = why_not_emulated(target)
    if reason:
        pytest.skip(reason)
    try:
        tvm_runtime(machine_of(target.mtriple))
    except MissingInputError as error:
        pytest.skip(error.message)
