"""The board's side of RPC: where it listens."""

from __future__ import annotations

import pytest

from ofatvm.device.rpc_board import bind_for, is_loopback, parsed_arguments


@pytest.mark.parametrize(
    ("tracker", "bind"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("127.8.0.1", "127.0.0.1")],
)
def test_a_board_of_a_tracker_on_loopback_listens_there(tracker: str, bind: str) -> None:
    assert bind_for((tracker, 9190)) == bind
    options, _ = parsed_arguments(["--key", "pi4", "--tracker", f"{tracker}:9190"])
    assert options.bind == bind


@pytest.mark.parametrize("every", ["0.0.0.0", "::"])
def test_a_board_of_a_tracker_here_for_all_listens_for_all(every: str) -> None:
    assert bind_for((every, 9190)) == every


def test_over_ipv6_too() -> None:
    assert bind_for(("::1", 9190)) == "::1"


@pytest.mark.parametrize("tracker", ["10.1.2.3", "nowhere.invalid"])
def test_a_board_of_a_tracker_elsewhere_listens_where_that_can_reach_it(tracker: str) -> None:
    assert not is_loopback(bind_for((tracker, 9190)))
    words = ["--key", "pi4", "--tracker", f"{tracker}:9190", "--allow-network"]
    assert not is_loopback(parsed_arguments(words)[0].bind)
    assert parsed_arguments([*words, "--bind", "127.0.0.1"])[0].bind == "127.0.0.1"
