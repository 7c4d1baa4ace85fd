"""ELF headers are read without loading anything."""

from __future__ import annotations

import platform
import struct
from pathlib import Path

import pytest

from ofatvm.elf import elf_machine, host_machine, is_whole_object, machine_of
from ofatvm.errors import BundleError
from tests.bundle.making import TARGET, Tiny


def test_the_machine_of_a_compiled_network(tiny: Tiny) -> None:
    assert elf_machine(tiny.model) == host_machine() == platform.machine()


@pytest.mark.parametrize(
    ("number", "name"), [(62, "x86_64"), (183, "aarch64"), (243, "riscv64"), (9999, None)]
)
def test_other_machines(tiny: Tiny, tmp_path: Path, number: int, name: str | None) -> None:
    data = bytearray(tiny.model.read_bytes())
    struct.pack_into("<H", data, 18, number)
    path = tmp_path / "model.so"
    path.write_bytes(data)
    if name:
        assert elf_machine(path) == name
    else:
        with pytest.raises(BundleError, match="unknown machine"):
            elf_machine(path)


def test_no_cut_file_passes(tiny: Tiny, tmp_path: Path) -> None:
    data = tiny.model.read_bytes()
    path = tmp_path / "model.so"
    for length in [*range(0, 600, 7), len(data) // 2]:
        path.write_bytes(data[:length])
        with pytest.raises(BundleError):
            elf_machine(path)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, b"MZ", "not an ELF file"),
        (4, b"\x09", "damaged ELF header"),
        (5, b"\x00", "damaged ELF header"),
        (5, b"\x02", "not a shared object"),
        (6, b"\x07", "damaged ELF header"),
        (16, b"\x02\x00", "type 2, not a shared object"),
        (32, b"\xff" * 8, "program header"),
        (54, b"\x00\x00", "program header"),
        (56, b"\x00\x00", "program header"),
        (56, b"\xff\xff", "program header|nothing to load|cut off"),
    ],
)
def test_damaged_headers(
    tiny: Tiny, tmp_path: Path, position: int, value: bytes, message: str
) -> None:
    data = bytearray(tiny.model.read_bytes())
    data[position : position + len(value)] = value
    path = tmp_path / "model.so"
    path.write_bytes(data)
    with pytest.raises(BundleError, match=message):
        elf_machine(path)


@pytest.mark.parametrize(
    ("word", "machine"),
    [
        ("x86_64-linux-gnu", "x86_64"),
        ("amd64", "x86_64"),
        ("i586-pc-linux", "i686"),
        ("aarch64-linux-gnu", "aarch64"),
        ("arm64-apple-darwin", "aarch64"),
        ("armv7l", "arm"),
        ("armv7-linux-gnueabihf", "arm"),
        ("arm-linux-gnueabihf", "arm"),
        ("riscv64-linux-gnu", "riscv64"),
    ],
)
def test_triples_and_uname_name_the_same_machines(word: str, machine: str) -> None:
    assert machine_of(word) == machine


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    from ofatvm.compiler.llvm import compile_ir

    path = tmp_path_factory.mktemp("object") / "small.o"
    functions = [
        f"define i32 @f{n}(i32 %x) {{\n  %y = mul i32 %x, {n}\n  ret i32 %y\n}}" for n in range(20)
    ]
    compile_ir("\n".join(functions), TARGET, path)
    return path.read_bytes()


def test_no_cut_object_passes(compiled: bytes, tmp_path: Path) -> None:
    path = tmp_path / "small.o"
    path.write_bytes(compiled)
    assert is_whole_object(path)
    for length in [*range(0, len(compiled), 64), len(compiled) - 1]:
        path.write_bytes(compiled[:length])
        assert not is_whole_object(path), length


def test_no_other_file_is_an_object(compiled: bytes, tmp_path: Path) -> None:
    path = tmp_path / "small.o"
    assert not is_whole_object(path)
    for data in (bytes(len(compiled)), b"MZ" + compiled[2:], compiled[:4] + b"\7" + compiled[5:]):
        path.write_bytes(data)
        assert not is_whole_object(path)
