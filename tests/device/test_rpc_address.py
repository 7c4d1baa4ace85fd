from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofatvm.device.rpc_address import RpcAddress, parse_address
from ofatvm.errors import UsageError


def test_an_address_as_typed() -> None:
    address = parse_address("rpc://127.0.0.1:9190/pi4")
    assert address == RpcAddress("127.0.0.1", 9190, "pi4")
    assert str(address) == "rpc://127.0.0.1:9190/pi4"
    assert parse_address("rpc://localhost:1/a.b-c_D").key == "a.b-c_D"
    assert parse_address("rpc://[::1]:65535/x") == RpcAddress("::1", 65535, "x")
    assert parse_address(str(RpcAddress("::1", 2, "x"))) == RpcAddress("::1", 2, "x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "rpc://HOST:PORT/KEY"),
        ("127.0.0.1:9190/pi4", "rpc://HOST:PORT/KEY"),
        ("RPC://127.0.0.1:9190/pi4", "rpc://HOST:PORT/KEY"),
        ("rpc://127.0.0.1:9190", "rpc://HOST:PORT/KEY"),
        ("rpc:///pi4", "HOST:PORT"),
        ("rpc://127.0.0.1/pi4", "HOST:PORT"),
        ("rpc://:9190/pi4", "HOST:PORT"),
        ("rpc://127.0.0.1:0/pi4", "65535"),
        ("rpc://127.0.0.1:65536/pi4", "65535"),
        ("rpc://127.0.0.1:9x/pi4", "65535"),
        ("rpc://127.0.0.1:٣/pi4", "65535"),
        ("rpc://127.0.0.1:9190/", "key"),
        ("rpc://127.0.0.1:9190/pi 4", "key"),
        ("rpc://127.0.0.1:9190/a/b", "key"),
        ("rpc://127.0.0.1:9190/server:pi", "key"),
        ("rpc://127.0.0.1:9190/" + "k" * 65, "key"),
        ("rpc://192.168.1.7:9190/pi4", "neither encrypted"),
        ("rpc://pi.local:9190/pi4", "neither encrypted"),
        ("rpc://localhost.evil.org:9190/pi4", "neither encrypted"),
        ("rpc://0.0.0.0:9190/pi4", "neither encrypted"),
    ],
)
def test_bad_addresses_are_one_line(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        parse_address(text)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 200


def test_leave_must_be_given_to_go_elsewhere() -> None:
    assert parse_address("rpc://pi.local:9190/pi4", allow_network=True).host == "pi.local"


@given(st.text(), st.booleans())
def test_any_text_is_an_address_or_an_error(text: str, allow_network: bool) -> None:
    for candidate in (text, f"rpc://{text}", f"rpc://127.0.0.1:{text}", f"rpc://a:9/{text}"):
        try:
            address = parse_address(candidate, allow_network=allow_network)
        except UsageError:
            continue
        assert parse_address(str(address), allow_network=allow_network) == address
