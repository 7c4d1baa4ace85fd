"""The kernel that a board's check runs exists for every kind of machine that boards have."""

from __future__ import annotations

from pathlib import Path

import pytest

from ofatvm.device.rpc_check import PLAIN, build
from ofatvm.elf import elf_machine
from ofatvm.errors import DeviceError


@pytest.mark.parametrize(
    ("machine", "elf"),
    [("x86_64", "x86_64"), ("aarch64", "aarch64"), ("armv7l", "arm"), ("riscv64", "riscv64")],
)
def test_every_machine_has_a_kernel(machine: str, elf: str, tmp_path: Path) -> None:
    assert machine in PLAIN
    path, _ = build(machine, tmp_path)
    assert elf_machine(Path(path)) == elf


def test_what_is_unknown_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="nothing is known of machines called 'vax'"):
        build("vax", tmp_path)
