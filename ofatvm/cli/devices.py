"""`ofatvm devices`: boards behind an RPC tracker: which there are, whether one works, being one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from ofatvm.cli.main import Run, common_options
from ofatvm.cli.options import THREADS, WholeNumber
from ofatvm.cli.render import Column, Result, pairs, table
from ofatvm.errors import DeviceError

TRACKER = "127.0.0.1:9190"
PORT = WholeNumber(1, 65535)
COLUMNS = (
    Column("key", "key", left=True),
    Column("total", "boards"),
    Column("free", "free"),
    Column("waiting", "waiting"),
)
allow_network = click.option(
    "--allow-network", is_flag=True, help="Also hosts other than this one; nothing is encrypted."
)


@click.group(
    "devices",
    no_args_is_help=False,
    help="Boards that programs are measured on through TVM's RPC: `--device rpc://HOST:PORT/KEY`.",
    epilog="RPC lets whoever connects run anything: reach boards by `ssh -L`.",
)
def command() -> None:
    """The root of what can be done with boards."""


@command.command("list", help="List the boards that a tracker knows.")
@click.option("--tracker", default=TRACKER, show_default=True, help="HOST:PORT of the tracker.")
@allow_network
@common_options
def list_devices(run: Run, tracker: str, allow_network: bool) -> Result:
    """Ask the tracker."""
    from ofatvm.device.rpc_address import parse_host_port, require_loopback
    from ofatvm.device.rpc_tracker import boards_of

    host, port = parse_host_port(tracker, what="--tracker")
    require_loopback(host, allow_network=allow_network)
    rows = [asdict(boards) for boards in boards_of((host, port))]
    none = f"the tracker at {tracker} knows no board; on one: ofatvm devices serve --key KEY"
    return Result(
        {"tracker": tracker, "devices": rows},
        lambda width: table(rows, COLUMNS, width) if rows else none,
    )


@command.command(
    "check", help="Connect to a board at rpc://HOST:PORT/KEY and see whether it works."
)
@click.argument("address")
@click.option("--threads", type=THREADS, help="Threads to ask for; the board's own if left out.")
@allow_network
@common_options
def check_device(run: Run, address: str, threads: int | None, allow_network: bool) -> Result:
    """Versions, threads, a kernel, the time of a call."""
    from ofatvm.device.rpc_address import parse_address
    from ofatvm.device.rpc_check import check_board

    where = parse_address(address, allow_network=allow_network)
    found = check_board(where, threads=threads, allow_network=allow_network, on_event=run.on_event)
    facts: dict[str, Any] = {
        "board": found.board,
        "machine": found.machine or "unknown",
        "apache-tvm": found.tvm or "unknown",
        "apache-tvm-ffi": found.ffi or "unknown",
        "threads": found.threads,
        "round trip": f"{found.round_trip_ms:.3g} ms",
        "calibration kernel": found.note or f"{found.kernel_ms:.3g} ms",
    }
    return Result({"device": asdict(found)}, lambda width: pairs(facts, width))


@command.command("serve", help="Offer this machine to a tracker, until interrupted.")
@click.option("--key", required=True, help="What boards of this kind are called, e.g. pi4.")
@click.option("--tracker", default=TRACKER, show_default=True, help="HOST:PORT of the tracker.")
@click.option("--tracker-here", is_flag=True, help="Run the tracker as well, at that address.")
@click.option("--threads", type=THREADS, help="Threads of TVM's pool; every core if left out.")
@click.option(
    "--bind",
    help="Address to listen on. If left out, 127.0.0.1 for a tracker on this machine's loopback; "
    "for one elsewhere (--allow-network) this machine's address on the way there.",
)
@click.option("--port", type=PORT, help="Port to listen on; any free one if left out.")
@click.option("--public-port", type=PORT, help="Port that clients reach it by, if another.")
@allow_network
@common_options
def serve_device(
    run: Run,
    key: str,
    tracker: str,
    tracker_here: bool,
    threads: int | None,
    bind: str | None,
    port: int | None,
    public_port: int | None,
    allow_network: bool,
) -> Result:
    """Supervise a board's server, and the tracker if asked to."""
    from ofatvm.device.rpc_address import parse_host_port, parse_key, require_loopback
    from ofatvm.device.rpc_board import Options, bind_for
    from ofatvm.device.rpc_server import serve

    where = parse_host_port(tracker, what="--tracker")
    require_loopback(where[0], allow_network=allow_network)
    listen = bind_for(where) if bind is None else bind.strip("[]")
    require_loopback(listen, allow_network=allow_network)
    options = Options(parse_key(key), where, listen, port or 0, public_port or 0, threads or 0)
    try:
        serve(options, tracker_here=tracker_here, on_event=run.on_event)
    except KeyboardInterrupt:
        return Result({"served": key}, lambda width: f"{key} is no longer served")
    raise DeviceError(f"{key} is no longer served")
