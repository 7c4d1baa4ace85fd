"""Files of checked lines: one JSON object a line, with a CRC of the rest as its last member."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from ofatvm.errors import OfatvmError

TAIL_BYTES = 1 << 16


def checked_line(body: Mapping[str, Any]) -> str:
    """One line, with its check sum and line end."""
    text = json.dumps(body, separators=(",", ":"))
    return f'{text[:-1]},"crc":"{zlib.crc32(text.encode()):08x}"}}\n'


def checked_body(line: bytes) -> dict[str, Any] | None:
    """What a line says, None if it is damaged in any way."""
    try:
        value = json.loads(line)
        crc = value.pop("crc")
        text = json.dumps(value, separators=(",", ":"))
        return dict(value) if f"{zlib.crc32(text.encode()):08x}" == crc else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Append to a file; all of it is on disk when this returns, or none after an error.

    What a killed writer left of its last line goes: it never returned, so nobody relies on it.
    """
    data = "".join(lines).encode()
    # Unbuffered: closing the file must not write what is left after an error.
    with path.open("ab+", buffering=0) as file:
        start = _mended(file)
        try:
            written = 0
            while written < len(data):
                written += file.write(data[written:])
            os.fsync(file.fileno())
        except OSError as error:
            # Half a batch must not stay behind a full disk's error.
            file.truncate(start)
            raise OfatvmError(
                f"cannot write {path}: {error.strerror}", hint="free some space"
            ) from error


def _mended(file: FileIO) -> int:
    """Let the file end with its last whole line; its size.

    A last line that lacks nothing but its end, as an editor leaves it, gets that.
    """
    size = file.seek(0, os.SEEK_END)
    tail = b""
    while len(tail) < size and b"\n" not in tail:
        step = min(TAIL_BYTES, size - len(tail))
        file.seek(size - len(tail) - step)
        tail = file.read(step) + tail
    tail = tail[tail.rfind(b"\n") + 1 :]
    if not tail:
        return size
    try:
        json.loads(tail)
    except (ValueError, RecursionError):
        file.truncate(size - len(tail))
        return size - len(tail)
    file.seek(0, os.SEEK_END)
    file.write(b"\n")
    return size + 1
