"""Which device a target's code runs on, opened with what the workspace knows of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ofatvm.compiler.base import library_digest
from ofatvm.compiler.relax import Program
from ofatvm.device.base import Device
from ofatvm.device.local import LocalDevice
from ofatvm.events import Event, ignore
from ofatvm.pipeline.device_choice import LOCAL, SIMULATED, require_local
from ofatvm.pipeline.gpu import open_gpu, require_gpu
from ofatvm.pipeline.measure import device_state, programs_for
from ofatvm.pipeline.references import HOLDS_AFTER, KERNEL_TIMES, begin_anew, hold
from ofatvm.pipeline.setup import CALIBRATION, Setup
from ofatvm.store import Store

if TYPE_CHECKING:
    from ofatvm.compiler.schedule import ScheduleConfig
    from ofatvm.device.rpc import RpcDevice
    from ofatvm.tuning import relay_bench
    from ofatvm.tuning.workers import Bench


@contextmanager
def open_device(
    setup: Setup,
    store: Store,
    *,
    fresh: bool = False,
    on_event: Callable[[Event], None] = ignore,
) -> Iterator[Device]:
    """The setup's device, ready to measure.

    Reference times of devices that need them are taken once per target and thread count, and kept
    before anything is measured by them, so that latencies of different days and of interrupted runs
    can be compared. `fresh` forgets what the store holds of the device.
    """
    if setup.device == SIMULATED:
        from ofatvm.device.simulated import SimulatedDevice

        with SimulatedDevice(setup.target, setup.workspace / "simulator") as simulated:
            if fresh:
                begin_anew(store, device_state(setup, simulated))
            yield simulated
        return
    if setup.gpu:
        require_gpu(setup)
        yardstick, run = yardstick_program(setup), device_state(setup)
        with open_gpu(setup, store, yardstick, run, fresh=fresh, on_event=on_event) as boards:
            yield boards
        return
    kernels = setup.library.require(CALIBRATION)
    calibration = [kernels[workload] for workload in CALIBRATION]
    yardstick = yardstick_program(setup)
    run = device_state(setup)
    keys = [
        f"reference-{library_digest(kernels.values())}",
        f"yardstick-{setup.resolution}-{library_digest(yardstick.kernels)}",
    ]
    device: LocalDevice | RpcDevice
    if setup.device == LOCAL:
        require_local(setup.target)
        device = _local(setup)(setup.target.threads, calibration, yardstick=yardstick)
    else:
        from ofatvm.device.rpc import RpcDevice
        from ofatvm.device.rpc_address import parse_address

        device = RpcDevice(
            parse_address(setup.device, allow_network=setup.allow_network),
            setup.target.threads,
            calibration,
            yardstick=yardstick,
            allow_network=setup.allow_network,
            on_event=on_event,
        )
    with device:
        if fresh:
            begin_anew(store, run, keys)
        hold(store, run, keys[0], device.kernel_reference, KERNEL_TIMES)
        hold(store, run, keys[1], device.visit_reference, HOLDS_AFTER)
        yield device


def _local(setup: Setup) -> type[LocalDevice]:
    if setup.ir == "relax":
        return LocalDevice
    from ofatvm.device.relay import RelayDevice

    return RelayDevice


def open_bench(
    setup: Setup, *, on_event: Callable[[Event], None] = ignore
) -> Bench[ScheduleConfig]:
    """What times tuning candidates on the setup's device; not entered yet."""
    if setup.device == SIMULATED:
        from ofatvm.tuning.simulated_bench import SimulatedBench

        return SimulatedBench(setup.target, setup.workspace / "simulator")
    builders = len(os.sched_getaffinity(0))
    if setup.device == LOCAL:
        from ofatvm.tuning.workers import Workers

        require_local(setup.target)
        return Workers(setup.target, setup.vectors, builders=builders)
    from ofatvm.device.rpc_address import parse_address
    from ofatvm.tuning.rpc_bench import RpcBench

    return RpcBench(
        setup.target,
        setup.vectors,
        parse_address(setup.device, allow_network=setup.allow_network),
        builders=builders,
        allow_network=setup.allow_network,
        on_event=on_event,
    )


def open_gpu_bench(setup: Setup, *, on_event: Callable[[Event], None] = ignore) -> Bench[str]:
    """What times candidates for a GPU on the setup's boards; not entered yet."""
    from ofatvm.device.rpc_address import parse_address
    from ofatvm.tuning.gpu_bench import GpuBench

    require_gpu(setup)
    return GpuBench(
        setup.target,
        parse_address(setup.device, allow_network=setup.allow_network),
        builders=len(os.sched_getaffinity(0)),
        allow_network=setup.allow_network,
        on_event=on_event,
    )


def open_relay_bench(setup: Setup) -> relay_bench.Bench:
    """What times candidates of the Relay road on the setup's device; not entered yet."""
    assert setup.relay_pool is not None
    if setup.device == SIMULATED:
        from ofatvm.tuning.relay_simulated import SimulatedRelayBench

        folder = setup.workspace / "simulator"
        return SimulatedRelayBench(setup.target, setup.blocking, setup.relay_pool, folder)
    from ofatvm.tuning.relay_bench import RelayBench

    require_local(setup.target)
    return RelayBench(setup.target, setup.blocking, setup.relay_pool)


def yardstick_program(setup: Setup) -> Program:
    """A network of middling size, the same for every run: what visits are normalised by.

    Neighbours on a shared machine slow memory and caches more than arithmetic, so that only
    something with a network's mix of both tells by how much.
    """
    space = setup.space
    middle = {
        name: choices[len(choices) // 2]
        for name, choices in (
            ("kernel", space.kernels),
            ("expand", space.expands),
            ("depth", space.depths),
        )
    }
    arch = space.uniform(**middle, resolution=setup.resolution)
    return programs_for(setup, [arch], folder=setup.workspace / "kernels" / "yardsticks")[0]
