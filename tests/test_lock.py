from __future__ import annotations

from pathlib import Path

import pytest

from ofatvm import lock
from ofatvm.errors import BusyError
from ofatvm.lock import turn_to_open


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
