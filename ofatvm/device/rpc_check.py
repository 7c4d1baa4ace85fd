"""Whether a board works: one session, its versions and threads, a small kernel, a call's time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ofatvm.compiler.kernels import build_kernel, kernel_sizes
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.space import VectorUnit, default_config
from ofatvm.device.rpc_address import RpcAddress, require_loopback
from ofatvm.device.rpc_boards import differences, require_boards
from ofatvm.device.rpc_child import open_session, ping, round_trip
from ofatvm.device.rpc_session import START_S, CallError, Session
from ofatvm.device.rpc_tracker import request_board
from ofatvm.device.visit import Spec, time_kernels
from ofatvm.errors import DeviceError, OfatvmError
from ofatvm.events import Event, Notice, ignore
from ofatvm.files import scratch
from ofatvm.target import Target

WAIT_S = 20.0
CALL_S = 60.0
MOST_THREADS = 1024
KERNEL = Workload("pointwise", (14, 14, 112), (14, 14, 112), activation="relu")
# What every CPU of a machine runs; compiling for it needs no knowledge of the board.
PLAIN = {
    "x86_64": Target(name="any-x86-64", mtriple="x86_64-linux-gnu", mcpu="x86-64"),
    "aarch64": Target(name="any-aarch64", mtriple="aarch64-linux-gnu", mcpu="cortex-a53"),
    "armv7l": Target(
        name="any-armv7", mtriple="armv7-linux-gnueabihf", mcpu="cortex-a9", mfloat_abi="hard"
    ),
    "riscv64": Target(
        name="any-riscv64",
        mtriple="riscv64-linux-gnu",
        mattr=("+a", "+c", "+d", "+f", "+m"),
        mabi="lp64d",
    ),
}


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known of a board that works; `note` says why no kernel was run, if none was."""

    board: str
    machine: str
    tvm: str
    ffi: str
    threads: int
    round_trip_ms: float
    kernel_ms: float | None
    note: str = ""


def check_board(
    address: RpcAddress,
    *,
    threads: int | None = None,
    allow_network: bool = False,
    on_event: Callable[[Event], None] = ignore,
) -> Checked:
    """Use a free board for a moment; DeviceError if there is none, or if it does not work."""
    require_boards(address)
    session = Session()
    try:
        session.call(ping, limit_s=START_S)
        until = time.monotonic() + WAIT_S
        granted = request_board(address.tracker, address.key, until, lambda: False)
        if granted is None:
            raise DeviceError(
                f"every board of {address} is taken, for {WAIT_S:g} s already",
                hint="see `ofatvm devices list`",
            )
        host, port, key = granted
        require_loopback(host, allow_network=allow_network)
        found = session.call(
            open_session, host, port, key, 4 * CALL_S, threads or MOST_THREADS, limit_s=WAIT_S
        )
        for text, hint in differences(found, threads or found["threads"]):
            raise DeviceError(f"the board {host}:{port} {text}", hint=hint)
        if "tvm" not in found:
            on_event(Notice("warning", "a plain TVM server: its version is unknown"))
        trip = session.call(round_trip, limit_s=WAIT_S)
        machine = str(found.get("machine", ""))
        with scratch("check") as folder:
            kernel_ms, note = None, "not run"
            try:
                spec = build(machine, folder)
            except OfatvmError as error:
                note = f"not run: {error}"
            else:
                times, _ = session.call(time_kernels, [spec], [spec], 5.0, limit_s=CALL_S)
                kernel_ms, note = times[0] * 1e3, ""
    except CallError as error:
        raise DeviceError(
            f"a board of {address} does not work: {error}",
            hint="look at what `ofatvm devices serve` says on the board",
        ) from None
    finally:
        session.kill()
    return Checked(
        board=f"{host}:{port}",
        machine=machine,
        tvm=str(found.get("tvm", "")),
        ffi=str(found.get("ffi", "")),
        threads=int(found["threads"]),
        round_trip_ms=trip * 1e3,
        kernel_ms=kernel_ms,
        note=note,
    )


def build(machine: str, folder: Path) -> Spec:
    """A small kernel for any CPU of a machine; OfatvmError if it cannot be compiled here."""
    if machine not in PLAIN:
        raise DeviceError(f"nothing is known of machines called {machine or 'nothing'!r}")
    unit = VectorUnit(lanes=4, registers=16, threads=1)
    config = default_config(KERNEL, unit)
    path = folder / "check.so"
    build_kernel(KERNEL, config, "check", PLAIN[machine], path)
    return str(path), tuple(kernel_sizes(KERNEL, config))
