"""The cache of simulations: what is kept, and what a damaged file says."""

from __future__ import annotations

from pathlib import Path

import pytest

from ofatvm.device.simulator.results import Results
from ofatvm.errors import DeviceError


def test_a_damaged_cache_names_itself_and_not_the_store(tmp_path: Path) -> None:
    Results(tmp_path)
    path = tmp_path / "results.sqlite"
    for extra in ("-wal", "-shm"):
        path.with_name(path.name + extra).unlink(missing_ok=True)
    path.write_bytes(b"garbage" * 1000)
    with pytest.raises(DeviceError, match=r"results\.sqlite cannot be used") as caught:
        Results(tmp_path).get(["a"])
    assert "delete it" in caught.value.hint
    assert "\n" not in caught.value.message
    path.unlink()
    assert Results(tmp_path).get(["a"]) == {}
