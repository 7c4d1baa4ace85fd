from __future__ import annotations

import os
from pathlib import Path

import pytest

from ofatvm import lock
from ofatvm.errors import BusyError
from ofatvm.lock import lock_folder, turn_to_open


def test_a_turn_that_never_comes_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BUSY_SECONDS", 0.1)
    path = tmp_path / "store.db"
    with (
        turn_to_open(path),
        pytest.raises(BusyError, match=r"has kept .*store\.db locked"),
        turn_to_open(path),
    ):
        pass
    with turn_to_open(path):
        pass


def test_a_pipe_is_no_lock_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(OSError, match=r"\.lock"):
        lock_folder(tmp_path, "tuning into")
    os.mkfifo(tmp_path / "store.lock")
    with pytest.raises(OSError, match=r"store\.lock"), turn_to_open(tmp_path / "store.db"):
        pass
