"""What torchrun says is understood, and so is that it says nothing."""

from __future__ import annotations

import pytest

from ofatvm.torchrun import first_of_machine, follows, together


@pytest.mark.parametrize(
    ("size", "rank", "local", "said"),
    [
        ("1", "0", "0", (False, False, True)),
        ("2", "0", "0", (True, False, True)),
        ("2", "1", "0", (True, True, True)),
        ("2", "1", "1", (True, True, False)),
        ("", "", "", (False, False, True)),
        ("2", "", "", (True, False, True)),
    ],
)
def test_what_the_variables_mean(
    monkeypatch: pytest.MonkeyPatch,
    size: str,
    rank: str,
    local: str,
    said: tuple[bool, bool, bool],
) -> None:
    for name, value in (("WORLD_SIZE", size), ("RANK", rank), ("LOCAL_RANK", local)):
        monkeypatch.setenv(name, value)
    assert (together(), follows(), first_of_machine()) == said
