"""ELF headers are read without loading anything."""

from __future__ import annotations

import contextlib
import platform
import re
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ofatvm.elf import (
    ElfFacts,
    check_needs,
    elf_machine,
    foreign_symbols,
    host_machine,
    is_whole_object,
    machine_of,
    read_elf,
)
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


NEEDY = "#include <math.h>\nfloat f(float x);\nfloat g(float x) { return f(expf(x)); }"


def built(path: Path, *options: str) -> Path:
    """A library that needs libm and the undefined function `f`."""
    path.with_suffix(".c").write_text(NEEDY)
    words = ["gcc", "-shared", "-fPIC", "-O1", *options, "-o", path, path.with_suffix(".c"), "-lm"]
    subprocess.run(words, check=True)
    return path


@pytest.mark.parametrize("style", ["gnu", "sysv", "both"])
def test_what_a_library_needs(tmp_path: Path, style: str) -> None:
    facts = read_elf(built(tmp_path / "lib.so", f"-Wl,--hash-style={style}"))
    assert facts.machine == platform.machine()
    assert set(facts.needed) <= {"libm.so.6", "libc.so.6"}
    assert "libm.so.6" in facts.needed
    assert facts.glibc is not None
    assert set(facts.undefined) == {"expf", "f"}
    assert foreign_symbols(facts) == ("f",)
    said = subprocess.run(
        ["readelf", "--version-info", tmp_path / "lib.so"], capture_output=True, text=True
    )
    versions = re.findall(r"GLIBC_([0-9.]+)", said.stdout)
    assert facts.glibc == max(versions, key=lambda text: [int(part) for part in text.split(".")])


def test_a_compiled_network_needs_nothing_by_name(tiny: Tiny) -> None:
    facts = read_elf(tiny.model)
    assert check_needs(facts) == ""
    assert foreign_symbols(facts) == ()


@pytest.mark.parametrize(
    ("needed", "glibc", "machine", "wrong"),
    [
        ((), None, "arm", ""),
        (("libc.so.6", "libm.so.6", "ld-linux-aarch64.so.1"), "2.28", "aarch64", ""),
        (("libtvm_runtime.so", "libtvm_ffi.so"), "2.2.5", "x86_64", ""),
        ((), "2.35", "riscv64", ""),
        (("libstdc++.so.6",), None, "aarch64", "it needs libstdc++.so.6"),
        (("elsewhere/libc.so.6",), None, "aarch64", "it needs elsewhere/libc.so.6"),
        ((), "2.29", "aarch64", "it needs glibc 2.29, 2.28 is the newest allowed"),
        ((), "2.100", "riscv64", "it needs glibc 2.100, 2.35 is the newest allowed"),
    ],
)
def test_what_a_board_may_not_have(
    needed: tuple[str, ...], glibc: str | None, machine: str, wrong: str
) -> None:
    assert check_needs(ElfFacts(machine, needed, glibc, ())) == wrong


def test_no_damaged_library_does_more_than_raise(tmp_path: Path) -> None:
    data = built(tmp_path / "lib.so").read_bytes()
    path = tmp_path / "damaged.so"
    rng = np.random.default_rng(0)
    for _ in range(400):
        changed = bytearray(data)
        for place in rng.integers(0, len(data), 20):
            changed[place] = rng.integers(256)
        # Mostly where the tables are: the first pages, and the dynamic section near the end.
        start = data.index(b"libm.so.6\0")
        for place in rng.integers(max(0, start - 700), start + 100, 10):
            changed[place] = rng.integers(256)
        path.write_bytes(changed)
        with contextlib.suppress(BundleError):
            read_elf(path)
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        with contextlib.suppress(BundleError):
            read_elf(path)


def shared_object(names: bytes, dynamic: list[tuple[int, int]], tables: bytes) -> bytes:
    """An x86-64 library of `names` at 176, with its dynamic section and then `tables` behind."""
    dynamic = [*dynamic, (5, 176), (10, len(names)), (0, 0)]
    data = b"".join(struct.pack("<qQ", *entry) for entry in dynamic)
    place, size = 176 + len(names), 176 + len(names) + len(data) + len(tables)
    head = b"\x7fELF\2\1\1".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    for kind, start, length in ((1, 0, size), (2, place, len(data))):
        head += struct.pack("<IIQQQQQQ", kind, 4, start, start, 0, length, length, 8)
    return head + names + data + tables


def test_small_libraries_cannot_make_much_work(tmp_path: Path) -> None:
    path = tmp_path / "model.so"
    path.write_bytes(shared_object(b"\0libm.so.6\0", [(1, 1), (4, 250), (6, 0)], bytes(64)))
    assert read_elf(path).needed == ("libm.so.6",)
    # 60,000 needed libraries that all have one and the same name of a megabyte.
    path.write_bytes(shared_object(b"a" * (1 << 20) + b"\0", [(1, 0)] * 60_000, b""))
    with pytest.raises(BundleError, match="damaged dynamic section"):
        read_elf(path)
    # 60,000 lists of versions of 60,000 entries, all in one place.
    count, names = 60_000, b"\0"
    place = 176 + len(names) + 16 * 5
    lists = b"".join(
        struct.pack("<HHIII", 1, count, 0, 16 * (count - number), 16) for number in range(count)
    )
    entries = struct.pack("<IHHII", 0, 0, 0, 0, 16) * (count + 1)
    needs = [(0x6FFFFFFE, place), (0x6FFFFFFF, count)]
    path.write_bytes(shared_object(names, needs, lists + entries))
    with pytest.raises(BundleError, match="damaged dynamic section"):
        read_elf(path)
