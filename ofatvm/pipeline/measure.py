"""Measuring subnets: kernels compiled once, programs built in parallel, visits one at a time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import networkx as nx
import numpy as np

from ofatvm.arch import Arch
from ofatvm.compiler.base import CompiledKernel, library_digest
from ofatvm.compiler.plan import Workload, kernel_calls
from ofatvm.compiler.relax import Program, build_program, plan_program
from ofatvm.device.base import Device
from ofatvm.device.rpc_address import parse_address
from ofatvm.device.timing import SAMPLE, Latency, Protocol
from ofatvm.errors import MeasurementError
from ofatvm.events import Event, Notice, Progress, StageFinished, StageStarted, ignore
from ofatvm.graph import operator_graph
from ofatvm.measurement import Measurement
from ofatvm.pipeline.device_choice import RPC
from ofatvm.pipeline.gpu import gpu_digest, gpu_programs, known_costs
from ofatvm.pipeline.references import KERNEL_TIMES, holds_after
from ofatvm.pipeline.relay import relay_programs, road_versions
from ofatvm.pipeline.setup import CALIBRATION, Setup, built, program_path
from ofatvm.predict.features import BlockTable
from ofatvm.store import Store
from ofatvm.text import counted

GROUP = 8
TIMED_AT_ONCE = 60


def compile_space(
    setup: Setup, *, on_event: Callable[[Event], None] = ignore
) -> list[CompiledKernel]:
    """Compile every kernel of the space that is not in the library yet; returns all of them."""
    from ofatvm.tuning.workloads import space_workloads

    started = monotonic()
    workloads = [use.workload for use in space_workloads(setup.space, setup.resolution)]
    every = {*workloads, *CALIBRATION}
    missing = setup.library.missing(every)
    on_event(StageStarted("compile", len(missing), f"of {counted(len(every), 'kernel')}"))
    for start in range(0, len(missing), 40):
        setup.library.require(kernel.workload for kernel in missing[start : start + 40])
        on_event(Progress("compile", min(start + 40, len(missing)), len(missing)))
    kernels = setup.library.require(workloads)
    on_event(StageFinished("compile", counted(len(kernels), "kernel"), monotonic() - started))
    return list(kernels.values())


def known_times(
    setup: Setup, store: Store, device: Device, *, on_event: Callable[[Event], None] = ignore
) -> BlockTable:
    """What is known of every subnet's latency before it is measured, as a table that sums it up.

    The milliseconds of its kernels, each compiled and timed alone; on a GPU, see `known_costs`.
    """
    if setup.gpu:
        return known_costs(setup, on_event)
    kernels = compile_space(setup, on_event=on_event)
    return kernel_times(setup, store, device, kernels, on_event=on_event)


def kernel_times(
    setup: Setup,
    store: Store,
    device: Device,
    kernels: Sequence[CompiledKernel],
    *,
    on_event: Callable[[Event], None] = ignore,
) -> BlockTable:
    """Milliseconds of every kernel alone on the device, as a table that sums them over subnets.

    Times are kept in the store by kernel digest; only new kernels are timed.
    """
    run = device_state(setup, device)
    known: dict[str, float] = store.get_state(run, KERNEL_TIMES, {})
    new = [kernel for kernel in kernels if kernel.digest not in known]
    if new:
        started = monotonic()
        on_event(StageStarted("kernels", len(new), "each timed alone"))
        while missing := [kernel for kernel in kernels if kernel.digest not in known]:
            times_ms = device.time_kernels(missing[:TIMED_AT_ONCE])
            # Timing them may have shown that those before do not hold.
            known = store.get_state(run, KERNEL_TIMES, {}) | times_ms
            store.put_state(run, KERNEL_TIMES, known)
            done = sum(kernel.digest in known for kernel in new)
            on_event(Progress("kernels", done, len(new)))
        on_event(StageFinished("kernels", counted(len(new), "kernel"), monotonic() - started))
    times = {kernel.workload: known[kernel.digest] for kernel in kernels}
    return additive_times(setup, times)


def additive_times(setup: Setup, times: dict[Workload, float]) -> BlockTable:
    """A table summing kernel milliseconds over the subnets of the setup's space."""

    def values(graph: nx.DiGraph[str]) -> dict[str, float]:
        return {call.weights or call.output: times[call.workload] for call in kernel_calls(graph)}

    table: BlockTable = setup.tables.additive(values)
    return table


def programs_for(
    setup: Setup, archs: Sequence[Arch], *, folder: Path | None = None
) -> list[Program]:
    """Programs for measuring, built in the setup's worker processes, where the device needs it."""
    folder = folder or _own_folder(setup.workspace / "programs" / setup.target.fingerprint)
    folder.mkdir(parents=True, exist_ok=True)
    if setup.gpu:
        return gpu_programs(setup, archs, folder)
    if setup.ir == "relay":
        return relay_programs(setup, archs, folder)
    kernels = setup.relax_library.require(setup.workloads(archs))
    jobs: list[Future[Program]] = []
    programs: list[Program] = []
    for arch in archs:
        graph = operator_graph(arch)
        used = {call.workload: kernels[call.workload] for call in kernel_calls(graph)}
        path = program_path(folder, arch, library_digest(used.values()))
        if not setup.linked:
            programs.append(plan_program(graph, used, path))
            continue
        jobs.append(setup.executor.submit(build_program, graph, used, setup.target, path))
    return programs + built(jobs)


def _own_folder(parent: Path) -> Path:
    """This process's folder below `parent`: another's search deletes what it has measured.

    Those of processes that are gone go.
    """
    for old in parent.glob("*"):
        if old.name.isdecimal() and not Path(f"/proc/{old.name}").exists():
            shutil.rmtree(old, ignore_errors=True)
    return parent / str(os.getpid())


def measure(
    setup: Setup,
    store: Store,
    device: Device,
    archs: Sequence[Arch],
    *,
    source: str,
    protocol: Protocol = SAMPLE,
    seed: int = 0,
    on_event: Callable[[Event], None] = ignore,
) -> list[Measurement]:
    """A stored measurement for each architecture, in order.

    What the store holds for the same kernels and source is taken instead of measured. Measurements
    are committed group by group; each group's visits are interleaved. A group that shows that those
    before it do not hold, since the yardstick's reference was too long, has them measured anew.
    """
    run = device_state(setup, device)
    while True:
        after = holds_after(store, run)
        found = _measured(setup, store, device, archs, source, protocol, seed, on_event)
        if holds_after(store, run) == after:
            return found
        on_event(Notice("info", "the machine was busy when its yardstick was timed: once more"))


def _measured(
    setup: Setup,
    store: Store,
    device: Device,
    archs: Sequence[Arch],
    source: str,
    protocol: Protocol,
    seed: int,
    on_event: Callable[[Event], None],
) -> list[Measurement]:
    distinct = list(dict.fromkeys(archs))
    digests = {arch: _digest(setup, arch) for arch in distinct}
    held = stored(setup, store, device, digests, source=source)
    found = {arch: held[arch.encode()] for arch in distinct if arch.encode() in held}
    todo = [arch for arch in distinct if arch not in found]
    if todo:
        started = monotonic()
        stage = "measure" if device.kind == "measured" else "simulate"
        on_event(StageStarted(stage, len(todo), f"{source}, {counted(len(todo), 'subnet')}"))
        for start in range(0, len(todo), GROUP):
            group = todo[start : start + GROUP]
            programs = programs_for(setup, group)
            places = range(start, start + len(group))
            tell = partial(_tell_visit, on_event, stage, places, len(todo))
            latencies = device.measure(programs, protocol, seed=seed + start, on_visit=tell)
            for arch, program, latency in zip(group, programs, latencies, strict=True):
                measurement = _measurement(
                    setup, device, arch, latency, source, digests[arch], seed
                )
                store.add_measurement(measurement)
                found[arch] = measurement
                program.path.unlink(missing_ok=True)
            on_event(Progress(stage, min(start + GROUP, len(todo)), len(todo), _fastest(found)))
        on_event(StageFinished(stage, counted(len(todo), "subnet"), monotonic() - started))
    return [found[arch] for arch in archs]


def _tell_visit(
    on_event: Callable[[Event], None],
    stage: str,
    group: range,
    count: int,
    done: int,
    total: int,
) -> None:
    """Say how far a group is: its subnets are visited in turns, and so are done all at once."""
    behind = group.start + len(group) * done // total
    on_event(Progress(stage, behind, count, f"visit {done} of {total}"))


def stored(
    setup: Setup, store: Store, device: Device, digests: Mapping[Arch, str], *, source: str
) -> dict[str, Measurement]:
    """Encoded architecture -> its newest good measurement that still holds.

    `digests` says which architectures, and which kernels each must have been measured with; target,
    thread count and device must be the same too. See `ofatvm.pipeline.references` for what holds.
    """
    wanted = {arch.encode(): digest for arch, digest in digests.items()}
    return {
        measurement.arch: measurement
        for measurement in store.measurements(
            target=setup.target.fingerprint,
            space=setup.space.name,
            threads=setup.target.threads,
            kind=device.kind,
            source=source,
            after=holds_after(store, device_state(setup, device)),
        )
        if not measurement.error
        and measurement.device == device.name
        and measurement.library == wanted.get(measurement.arch)
    }


def latencies_ms(measurements: Sequence[Measurement]) -> np.ndarray:
    """Medians (n,), NaN where a measurement failed."""
    return np.array([m.latency_ms if m.latency_ms is not None else np.nan for m in measurements])


def _measurement(
    setup: Setup,
    device: Device,
    arch: Arch,
    latency: Latency | str,
    source: str,
    digest: str,
    seed: int,
) -> Measurement:
    common: dict[str, Any] = {
        "arch": arch.encode(),
        "space": setup.space.name,
        "target": setup.target.fingerprint,
        "device": device.name,
        "kind": device.kind,
        "threads": setup.target.threads,
        "source": source,
        "library": digest,
        "versions": road_versions(setup.ir),
        "seed": seed,
    }
    if isinstance(latency, str):
        return Measurement(**common, error=latency)
    return Measurement(
        **common,
        latency_ms=latency.latency_ms,
        p90_ms=latency.p90_ms,
        ci_low_ms=latency.ci_low_ms,
        ci_high_ms=latency.ci_high_ms,
        samples_ms=latency.visits_ms,
        unstable=latency.unstable,
        calibration_ratio=latency.calibration_ratio,
    )


def _digest(setup: Setup, arch: Arch) -> str:
    if setup.gpu:
        return gpu_digest(setup, [arch])
    return library_digest(setup.library.kernel(workload) for workload in setup.workloads([arch]))


def device_state(setup: Setup, device: Device | None = None) -> str:
    """The store's name for what it keeps of a device: the setup's, or one that is open.

    A simulated device has other times with every change of its tools; its name tells them apart.
    """
    name = f"device-{setup.target.fingerprint}-{setup.target.threads}"
    if setup.device == "local":
        return name
    if device is not None:
        return f"{name}-{device.name}"
    if setup.device.startswith(RPC):
        address = parse_address(setup.device, allow_network=setup.allow_network)
        return f"{name}-{address.device}"
    return f"{name}-{setup.device}"


def _fastest(found: dict[Arch, Measurement]) -> str:
    times = [m.latency_ms for m in found.values() if m.latency_ms is not None]
    return f"fastest {min(times):.3g} ms" if times else ""


def require_some(measurements: Sequence[Measurement], least: int = 1) -> None:
    """Raise MeasurementError if fewer than `least` measurements succeeded and one failed."""
    errors = [m.error for m in measurements if m.error]
    if errors and len(measurements) - len(errors) < least:
        which = "all" if len(errors) == len(measurements) else f"{len(errors)} of"
        many = len(measurements) > 1
        failed = f"{which} {len(measurements)} measurements failed" if many else "measuring failed"
        raise MeasurementError(
            f"{failed}{', the first' if many else ''}: {errors[0]}",
            hint="see `ofatvm doctor`",
        )
