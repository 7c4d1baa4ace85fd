"""Addresses of boards: `rpc://HOST:PORT/KEY`, where HOST:PORT is the tracker's."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ofatvm.device.rpc_board import is_loopback
from ofatvm.errors import UsageError

SCHEME = "rpc://"
KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\]", re.ASCII)
EXAMPLE = "rpc://127.0.0.1:9190/pi4"


@dataclass(frozen=True, slots=True)
class RpcAddress:
    """A tracker, and the key that its boards of one kind go by."""

    host: str
    port: int
    key: str

    @property
    def tracker(self) -> tuple[str, int]:
        """Where the tracker listens."""
        return self.host, self.port

    @property
    def device(self) -> str:
        """What measurements call the boards: by their key, as a tunnel's port may change."""
        return f"rpc:{self.key}"

    def __str__(self) -> str:
        """As it is typed."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{SCHEME}{host}:{self.port}/{self.key}"


def parse_address(text: str, *, allow_network: bool = False) -> RpcAddress:
    """An address as typed; UsageError if it is malformed, or not loopback without leave."""
    rest = text.removeprefix(SCHEME)
    where, slash, key = rest.partition("/")
    if rest == text or not slash:
        raise UsageError(
            f"a board's address must be rpc://HOST:PORT/KEY, got {text[:80]!r}",
            hint=f"for example {EXAMPLE}",
        )
    host, port = parse_host_port(where, what="a board's address")
    require_loopback(host, allow_network=allow_network)
    return RpcAddress(host, port, parse_key(key))


def parse_host_port(text: str, *, what: str) -> tuple[str, int]:
    """HOST:PORT; IPv6 hosts stand in brackets."""
    host, colon, port = text.rpartition(":")
    if not colon or not HOST.fullmatch(host):
        raise UsageError(f"{what} needs HOST:PORT, got {text[:80]!r}", hint=f"as in {EXAMPLE}")
    if not re.fullmatch(r"\d{1,5}", port, re.ASCII) or not 0 < int(port) < 1 << 16:
        raise UsageError(f"{what} needs a port from 1 to 65535, got {port[:40]!r}")
    return host.strip("[]"), int(port)


def parse_key(text: str) -> str:
    """The name that boards of one kind share."""
    if not KEY.fullmatch(text):
        raise UsageError(
            f"a board's key must be 1 to 64 letters, digits, dots and dashes, got {text[:80]!r}",
            hint=f"for example pi4, as in {EXAMPLE}",
        )
    return text


def require_loopback(host: str, *, allow_network: bool) -> None:
    """Refuse other hosts than this one: RPC lets whoever connects run anything, unencrypted."""
    if not HOST.fullmatch(host) and not HOST.fullmatch(f"[{host}]"):
        raise UsageError(f"{host[:80]!r} is no host", hint="give a name or an address")
    if not allow_network and not is_loopback(host):
        raise UsageError(
            f"{host[:80]} is not this machine, and RPC is neither encrypted nor protected",
            hint="open a tunnel, `ssh -L 9190:127.0.0.1:9190 HOST`, or give --allow-network",
        )
