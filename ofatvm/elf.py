"""What an ELF file's headers say, read without loading it."""

from __future__ import annotations

import os
import platform
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ofatvm.errors import BundleError

SHARED_OBJECT = 3
PT_LOAD, PT_DYNAMIC = 1, 2
DT_NULL, DT_NEEDED, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ = 0, 1, 4, 5, 6, 10
DT_GNU_HASH, DT_VERNEED, DT_VERNEEDNUM = 0x6FFFFEF5, 0x6FFFFFFE, 0x6FFFFFFF
GLOBAL = 1
MAX_TABLE_BYTES = 1 << 24
MAX_ENTRIES = 1 << 16
MAX_NAME_BYTES = 1 << 12
# Compiled code may need these libraries, and none of TVM's but the two that run it.
LIBRARIES = re.compile(
    r"lib(c|m)\.so\.6|libdl\.so\.2|libpthread\.so\.0|ld-linux[A-Za-z0-9_-]*\.so\.[0-9]"
    r"|libtvm_(runtime|ffi)\.so"
)
# The newest glibc whose symbols it may ask for: that of TVM's own wheels, and for riscv64, which
# has none, that of Ubuntu 22.04.
GLIBC, GLIBC_RISCV64 = "2.28", "2.35"
# What code generation calls by itself, and the mathematical functions of one float.
_MATHS = "acos asin atan atan2 ceil cos cosh erf exp exp2 floor fma fmax fmin fmod log log10 log1p"
_MATHS += " log2 nearbyint pow rint round sin sinh sqrt tan tanh trunc"
FUNCTIONS = {"memcpy", "memmove", "memset", "sched_yield", *(f"{name}f" for name in _MATHS.split())}
# 32-bit ARM's unwind tables name it, and no code calls it.
FUNCTIONS.add("__aeabi_unwind_cpp_pr0")
# (e_machine, bits): the first word of a target triple.
MACHINES = {
    (3, 32): "i686",
    (40, 32): "arm",
    (62, 64): "x86_64",
    (183, 64): "aarch64",
    (243, 32): "riscv32",
    (243, 64): "riscv64",
}


@dataclass(frozen=True, slots=True)
class ElfFacts:
    """What a shared object is for and needs, by its dynamic section.

    `glibc` is the highest version of a symbol asked for, None where no version is asked for;
    `undefined` are the symbols that it takes from elsewhere, optional ones left out.
    """

    machine: str
    needed: tuple[str, ...]
    glibc: str | None
    undefined: tuple[str, ...]


def elf_machine(path: Path) -> str:
    """The machine a shared object is for; BundleError when it is none, or cut off."""
    return _headers(path)[0]


def read_elf(path: Path) -> ElfFacts:
    """What a shared object is for and needs; BundleError when it is none, or damaged.

    An own reader, since it must answer any file at all with one sentence and bounded work, and
    needs four tables of the dynamic section only.
    """
    machine, bits, segments = _headers(path)
    with path.open("rb") as file:
        try:
            return _Dynamic(file, bits, segments).facts(machine)
        except (struct.error, ValueError, LookupError):
            raise BundleError(f"{path.name} has a damaged dynamic section") from None


def check_needs(facts: ElfFacts) -> str:
    """What of its needs a board may not have, in words; empty when all is well."""
    strange = [name for name in facts.needed if not LIBRARIES.fullmatch(name)]
    if strange:
        return f"it needs {', '.join(strange)[:200]}"
    newest = newest_glibc(facts.machine)
    if facts.glibc is not None and _version(facts.glibc) > _version(newest):
        return f"it needs glibc {facts.glibc}, {newest} is the newest allowed"
    return ""


def newest_glibc(machine: str) -> str:
    """The newest glibc whose symbols code for a machine may ask for."""
    return GLIBC_RISCV64 if machine == "riscv64" else GLIBC


def foreign_symbols(facts: ElfFacts) -> tuple[str, ...]:
    """Symbols that neither a C library nor TVM has."""
    return tuple(
        name for name in facts.undefined if name not in FUNCTIONS and not name.startswith("TVM")
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split("."))


class _Dynamic:
    """The tables of a shared object's dynamic section, read as far as they are asked for."""

    def __init__(self, file: BinaryIO, bits: int, segments: list[_Segment]) -> None:
        self.file, self.bits, self.segments = file, bits, segments
        place = next(s for s in segments if s.kind == PT_DYNAMIC)
        self.entries: list[tuple[int, int]] = []
        word, step = ("<qQ", 16) if bits == 64 else ("<iI", 8)
        data = self._read(place.start, min(place.length, step * MAX_ENTRIES))
        for tag, value in struct.iter_unpack(word, data[: len(data) // step * step]):
            if tag == DT_NULL:
                break
            self.entries.append((tag & 0xFFFFFFFF, value))
        self.values = dict(reversed(self.entries))
        size = self.values[DT_STRSZ]
        if size > MAX_TABLE_BYTES:
            raise ValueError("too long")
        self.names = self._at(self.values[DT_STRTAB], size)

    def facts(self, machine: str) -> ElfFacts:
        needed = tuple(self._name(value) for tag, value in self.entries if tag == DT_NEEDED)
        return ElfFacts(machine, needed, self._glibc(), self._undefined())

    def _glibc(self) -> str | None:
        """The highest of the versions that stand in the table of versions needed."""
        found: list[str] = []
        steps = 0
        place = self.values.get(DT_VERNEED, 0)
        for _ in range(min(self.values.get(DT_VERNEEDNUM, 0), MAX_ENTRIES)):
            _, count, _, first, following = struct.unpack("<HHIII", self._at(place, 16))
            entry = place + first
            for _ in range(count):
                _, _, _, name, step = struct.unpack("<IHHII", self._at(entry, 16))
                match = re.fullmatch(r"GLIBC_([0-9]{1,4}(\.[0-9]{1,4}){1,3})", self._name(name))
                if match:
                    found.append(match.group(1))
                # In all: the lists of several libraries may lie on top of each other.
                steps += 1
                if steps > MAX_ENTRIES:
                    raise ValueError("too many")
                if not step:
                    break
                entry += step
            if not following:
                break
            place += following
        return max(found, key=_version, default=None)

    def _undefined(self) -> tuple[str, ...]:
        """Names of the symbols without a section that are not weak."""
        size = 24 if self.bits == 64 else 16
        count = self._symbols()
        data = self._at(self.values[DT_SYMTAB], size * count)
        names = []
        for start in range(size, len(data), size):
            if self.bits == 64:
                name, info, _, section = struct.unpack_from("<IBBH", data, start)
            else:
                name, _, _, info, _, section = struct.unpack_from("<IIIBBH", data, start)
            if section == 0 and info >> 4 == GLOBAL:
                names.append(self._name(name))
        return tuple(sorted(names))

    def _symbols(self) -> int:
        """How many symbols there are, or come before the first that is defined."""
        if DT_GNU_HASH in self.values:
            count = struct.unpack("<II", self._at(self.values[DT_GNU_HASH], 8))[1]
        else:
            count = struct.unpack("<II", self._at(self.values[DT_HASH], 8))[1]
        if count > MAX_ENTRIES:
            raise ValueError("too many")
        return int(count)

    def _name(self, offset: int) -> str:
        end = self.names.index(b"\0", offset, offset + MAX_NAME_BYTES)
        return self.names[offset:end].decode("ascii")

    def _at(self, address: int, size: int) -> bytes:
        """Bytes at an address, in the segment that loads them."""
        for segment in self.segments:
            within = address - segment.address
            if segment.kind == PT_LOAD and within >= 0 and within + size <= segment.length:
                return self._read(segment.start + within, size)
        raise ValueError("outside")

    def _read(self, start: int, size: int) -> bytes:
        if start + size > os.fstat(self.file.fileno()).st_size:
            raise ValueError("cut off")
        self.file.seek(start)
        return self.file.read(size)


@dataclass(frozen=True, slots=True)
class _Segment:
    """Of a program header: type, place and length in the file, address in memory."""

    kind: int
    start: int
    length: int
    address: int


def _headers(path: Path) -> tuple[str, int, list[_Segment]]:
    """Machine, bits and segments of a shared object that is there to its end."""
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
    for segment in segments:
        if segment.kind == PT_LOAD and segment.start + segment.length > size:
            raise BundleError(f"{path.name} is cut off: {size} bytes, its headers need more")
    if not {PT_LOAD, PT_DYNAMIC} <= {segment.kind for segment in segments}:
        raise BundleError(f"{path.name} has nothing to load")
    return name, bits, segments


def _segment(entry: bytes, order: str, bits: int) -> _Segment:
    if bits == 64:
        kind, _, start, address, _, length = struct.unpack_from(order + "IIQQQQ", entry)
    else:
        kind, start, address, _, length = struct.unpack_from(order + "IIIII", entry)
    return _Segment(kind, start, length, address)


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
