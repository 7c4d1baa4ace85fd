"""What the plugin wrote: how often every basic block ran in each part of the work."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from ofatvm.errors import DeviceError


@dataclass(frozen=True, slots=True)
class Block:
    """A basic block: its address in the guest, its number of instructions, its bytes."""

    address: int
    instructions: int
    code: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """The counts of one step's share for one thread, in one pass over the work.

    `misses` are the lines that each cache level, nearest first, did not hold.
    """

    step: int
    task: int
    number: int
    misses: tuple[int, ...]
    executions: dict[int, int]


@dataclass(frozen=True, slots=True)
class Counts:
    """Blocks by their number, and all parts in the order they ran."""

    blocks: dict[int, Block]
    parts: tuple[Part, ...]


def read_counts(path: Path) -> Counts:
    """Read the plugin's file; DeviceError if the guest did not get to its end."""
    data = path.read_bytes() if path.exists() else b""
    blocks: dict[int, Block] = {}
    parts: list[Part] = []
    at = 0
    try:
        while True:
            kind = data[at : at + 1]
            at += 1
            if kind == b"B":
                number, address, count, size = struct.unpack_from("<IQII", data, at)
                at += 20
                blocks[number] = Block(address, count, data[at : at + size])
                at += size
            elif kind == b"P":
                part, at = _part(data, at)
                parts.append(part)
            elif kind == b"E" and at == len(data):
                return Counts(blocks, tuple(parts))
            else:
                break
    except struct.error:
        pass
    raise DeviceError(
        "the simulation ended before its work was done", hint="is the disk full? Try again"
    )


def _part(data: bytes, at: int) -> tuple[Part, int]:
    step, task, number, used, levels = struct.unpack_from("<5I", data, at)
    at += 20
    misses = struct.unpack_from(f"<{levels}Q", data, at)
    at += 8 * levels
    rows = struct.iter_unpack("<IQ", data[at : at + 12 * used])
    part = Part(step, task, number, misses, dict(rows))
    if len(part.executions) != used:
        raise struct.error("cut off")
    return part, at + 12 * used
