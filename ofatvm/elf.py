"""What an ELF file's headers say, read without loading it."""

from __future__ import annotations

import os
import platform
import re
import struct
from pathlib import Path

from ofatvm.errors import BundleError

SHARED_OBJECT = 3
PT_LOAD, PT_DYNAMIC = 1, 2
# (e_machine, bits): the first word of a target triple.
MACHINES = {
    (3, 32): "i686",
    (40, 32): "arm",
    (62, 64): "x86_64",
    (183, 64): "aarch64",
    (243, 32): "riscv32",
    (243, 64): "riscv64",
}


def elf_machine(path: Path) -> str:
    """The machine a shared object is for; BundleError when it is none, or cut off."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
        if len(head) < 52 or head[:4] != b"\x7fELF":
            raise BundleError(f"{path.name} is not an ELF file")
        bits, order = {1: 32, 2: 64}.get(head[4], 0), {1: "<", 2: ">"}.get(head[5], "")
        if not bits or not order or head[6] != 1 or len(head) < (64 if bits == 64 else 52):
            raise BundleError(f"{path.name} has a damaged ELF header")
        kind, machine = struct.unpack_from(order + "HH", head, 16)
        if kind != SHARED_OBJECT:
            raise BundleError(f"{path.name} is an ELF file of type {kind}, not a shared object")
        name = MACHINES.get((machine, bits)) if order == "<" else None
        if name is None:
            raise BundleError(f"{path.name} is for an unknown machine (ELF number {machine})")
        offset = struct.unpack_from(
            order + ("Q" if bits == 64 else "I"), head, 32 if bits == 64 else 28
        )[0]
        entry, count = struct.unpack_from(order + "HH", head, 54 if bits == 64 else 42)
        if entry != (56 if bits == 64 else 32) or not count or offset + entry * count > size:
            raise BundleError(f"{path.name} has a damaged ELF program header")
        file.seek(offset)
        table = file.read(entry * count)
    segments = [_segment(table[i * entry :], order, bits) for i in range(count)]
    for segment, start, length in segments:
        if segment == PT_LOAD and start + length > size:
            raise BundleError(f"{path.name} is cut off: {size} bytes, its headers need more")
    if not {PT_LOAD, PT_DYNAMIC} <= {segment for segment, _, _ in segments}:
        raise BundleError(f"{path.name} has nothing to load")
    return name


def _segment(entry: bytes, order: str, bits: int) -> tuple[int, int, int]:
    """(type, offset in the file, bytes in the file) of a program header."""
    if bits == 64:
        kind, _, start, _, _, length = struct.unpack_from(order + "IIQQQQ", entry)
    else:
        kind, start, _, _, length = struct.unpack_from(order + "IIIII", entry)
    return kind, start, length


def is_whole_object(path: Path) -> bool:
    """Whether an object file is there to its end, where its section headers are."""
    try:
        with path.open("rb") as file:
            head, size = file.read(64), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return False
    if len(head) < 64 or head[:4] != b"\x7fELF" or head[4] not in (1, 2):
        return False
    bits = 32 * head[4]
    offset = struct.unpack_from("<Q" if bits == 64 else "<I", head, 40 if bits == 64 else 32)[0]
    entry, count = struct.unpack_from("<HH", head, 58 if bits == 64 else 46)
    return bool(offset and count and offset + entry * count <= size)


def machine_of(word: str) -> str:
    """The machine that a triple, or `uname -m`, names, in the words of `MACHINES`."""
    word = word.split("-")[0].lower()
    if re.fullmatch(r"i[3-6]86", word):
        return "i686"
    if re.fullmatch(r"(arm|thumb)(v.*)?", word) and not word.startswith("armv8"):
        return "arm"
    return {"amd64": "x86_64", "arm64": "aarch64", "armv8l": "arm"}.get(word, word)


def host_machine() -> str:
    """This machine, in the words of `MACHINES`."""
    return machine_of(platform.machine() or os.uname().machine)
