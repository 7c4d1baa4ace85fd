"""Which device runs a target's code: this machine, a board, or the simulated one."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable

from ofatvm.elf import host_machine, machine_of
from ofatvm.errors import DeviceError, TargetError, UsageError
from ofatvm.events import Event, Notice, ignore
from ofatvm.target import Target
from ofatvm.target_text import closest
from ofatvm.text import counted

AUTO, LOCAL, SIMULATED, RPC = "auto", "local", "simulated", "rpc://"
# What `auto` is for a GPU: nothing here runs its code, which is an error when it must be run.
NONE = "none"
RELAY_MACHINES = ("x86_64", "aarch64", "arm")
"""Those of ofatvm's that the LLVM in TVM 0.19's packages generates code for."""
DIVISION = "idiva"
"""What the kernel calls ARM's division: Relay's kernels divide indices where they run."""


def choose_device(
    text: str,
    target: Target,
    *,
    allow_network: bool = False,
    on_event: Callable[[Event], None] = ignore,
) -> str:
    """The device that a --device value means for a target, in its full spelling.

    `auto` is this machine where its CPU runs the target's code, else the simulated device, which is
    said; for a GPU it is none. Raises UsageError for what is no device, TargetError for this
    machine if it does not run the code, and DeviceError for a GPU's code anywhere but on a board.
    """
    if text.startswith(RPC):
        from ofatvm.device.rpc_address import parse_address

        return str(parse_address(text, allow_network=allow_network))
    if target.kind == "cuda" and text in (AUTO, LOCAL, SIMULATED):
        if text == AUTO:
            return NONE
        raise no_gpu(target)
    if text == AUTO:
        if target.kind == "llvm" and runs_here(target):
            return LOCAL
        on_event(
            Notice(
                "info", f"this machine does not run code for {target.name}: latencies are simulated"
            )
        )
        return SIMULATED
    if text == LOCAL:
        require_local(target)
    elif text != SIMULATED:
        close = closest(text, (AUTO, LOCAL, SIMULATED))
        raise UsageError(
            f"no device {text[:60]!r}",
            hint=f"did you mean {close}?"
            if close
            else "it is auto, local, simulated or rpc://HOST:PORT/KEY",
        )
    return text


def no_gpu(target: Target) -> DeviceError:
    """That a GPU's code cannot be run here."""
    return DeviceError(
        f"nothing here runs code for {target.name}: it needs its GPU, and no GPU is simulated",
        hint="give its board: --device rpc://HOST:PORT/KEY, with `ofatvm devices serve` on it; or "
        "`ofatvm compile`, which needs no device",
    )


def require_local(target: Target) -> None:
    """Raise TargetError unless the target's code runs on this machine, with all its threads."""
    if target.kind != "llvm" or not runs_here(target):
        raise TargetError(
            f"code for {target.name} does not run on this machine",
            hint="give --device simulated, or a board: --device rpc://HOST:PORT/KEY",
        )
    cores = len(os.sched_getaffinity(0))
    if target.threads > cores:
        raise TargetError(
            f"{target.threads} threads asked for, this machine has {counted(cores, 'core')}",
            hint=f"give --threads {cores} or fewer",
        )


def require_relay(target: Target, device: str) -> None:
    """Raise unless the Relay road compiles for the target and measures on the device.

    UsageError for what it does not do, MissingInputError if its environment is not there.
    """
    from ofatvm.compiler.relay_env import relay_versions
    from ofatvm.device.cpu_features import needed_features

    if target.kind != "llvm":
        raise UsageError(
            f"--ir relay compiles for CPUs alone: TVM 0.19 came without {target.kind} here",
            hint="leave --ir out",
        )
    machine = machine_of(target.mtriple) if target.mtriple else host_machine()
    if machine not in RELAY_MACHINES:
        raise UsageError(
            f"--ir relay compiles for {', '.join(RELAY_MACHINES)}, not for {machine}: TVM 0.19 "
            "came without it here",
            hint="leave --ir out",
        )
    if machine == "arm" and DIVISION not in needed_features(target):
        # It would call GCC's function for that, which no bundle has.
        raise UsageError(
            "--ir relay compiles for ARM CPUs that divide integers, and "
            f"{target.mcpu or target.name} has no instruction for that",
            hint="leave --ir out",
        )
    if device.startswith(RPC):
        raise UsageError(
            "--ir relay measures on this machine or simulated, not over RPC: boards run TVM 0.27",
            hint="give --device simulated, or leave --ir out",
        )
    relay_versions()


def runs_here(target: Target) -> bool:
    """Whether this machine's CPU can run code compiled for the target."""
    from ofatvm.device.cpu_features import host_features, needed_features

    if target.mtriple and target.mtriple.split("-")[0] != platform.machine():
        return False
    return host_features().issuperset(needed_features(target))
