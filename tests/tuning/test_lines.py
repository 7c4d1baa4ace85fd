from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofatvm.errors import OfatvmError
from ofatvm.tuning.lines import append_lines, checked_body, checked_line

BODIES = st.dictionaries(
    st.text(max_size=8).filter(lambda key: key != "crc"),
    st.one_of(st.integers(), st.text(max_size=20), st.floats(allow_nan=False), st.none()),
    min_size=1,
    max_size=4,
)


@given(BODIES)
def test_a_line_gives_its_body_back(body: dict[str, Any]) -> None:
    line = checked_line(body)
    assert line.count("\n") == 1
    assert checked_body(line.encode()) == body


@given(BODIES, st.data())
def test_a_changed_byte_is_noticed(body: dict[str, Any], data: st.DataObject) -> None:
    line = checked_line(body).encode()[:-1]
    where = data.draw(st.integers(0, len(line) - 1))
    bad = bytearray(line)
    bad[where] ^= 1 << data.draw(st.integers(0, 7))
    assert checked_body(bytes(bad)) in (None, body)
    assert checked_body(line[:where]) is None


@pytest.mark.parametrize("torn", [b"tor", b'{"half": [1, ', b"\xff", b"x" * 200_000])
def test_a_torn_end_goes_with_the_next_line(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "file"
    append_lines(path, ["a\n", "b\n"])
    with path.open("ab") as file:
        file.write(torn)
    append_lines(path, ["c\n"])
    append_lines(path, ["d\n"])
    assert path.read_bytes() == b"a\nb\nc\nd\n"


@pytest.mark.parametrize("before", [b"", b"[0]\n"])
def test_a_whole_last_line_without_its_end_stays(tmp_path: Path, before: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(before + b'{"by": "hand"}')
    append_lines(path, ["[1]\n"])
    assert path.read_bytes() == before + b'{"by": "hand"}\n[1]\n'


def test_a_file_that_is_all_torn_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"tor")
    append_lines(path, ["a\n"])
    assert path.read_bytes() == b"a\n"


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    append_lines(path, ["a\n"])

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ofatvm.tuning.lines.os.fsync", full)
    with pytest.raises(OfatvmError, match=r"cannot write .*No space left"):
        append_lines(path, ["b\n"])
    assert path.read_bytes() == b"a\n"
