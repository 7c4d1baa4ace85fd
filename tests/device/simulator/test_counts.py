from __future__ import annotations

import struct
from pathlib import Path

import pytest

from ofatvm.device.simulator.counts import Block, read_counts
from ofatvm.errors import DeviceError

BLOCK = b"B" + struct.pack("<IQII", 7, 0x8000000, 2, 3) + b"abc"
PART = b"P" + struct.pack("<5I", 1, 0, 1, 1, 2) + struct.pack("<2Q", 30, 4)
PART += struct.pack("<IQ", 7, 12)


def test_blocks_and_parts_are_read_back(tmp_path: Path) -> None:
    (tmp_path / "counts").write_bytes(BLOCK + PART + b"E")
    counts = read_counts(tmp_path / "counts")
    assert counts.blocks == {7: Block(0x8000000, 2, b"abc")}
    [part] = counts.parts
    assert (part.step, part.task, part.number) == (1, 0, 1)
    assert part.misses == (30, 4)
    assert part.executions == {7: 12}


@pytest.mark.parametrize("length", range(len(BLOCK + PART)))
def test_a_guest_that_did_not_get_to_its_end_is_noticed(tmp_path: Path, length: int) -> None:
    (tmp_path / "counts").write_bytes((BLOCK + PART + b"E")[:length])
    with pytest.raises(DeviceError, match="ended before its work was done"):
        read_counts(tmp_path / "counts")


def test_what_follows_the_end_is_damage(tmp_path: Path) -> None:
    (tmp_path / "counts").write_bytes(BLOCK + PART + b"E" + b"E")
    with pytest.raises(DeviceError):
        read_counts(tmp_path / "counts")
