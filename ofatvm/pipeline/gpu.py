"""Networks for GPUs as the pipeline handles them: programs, what they are known by, the boards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from ofatvm.arch import Arch
from ofatvm.compiler import gpu
from ofatvm.compiler.digest import code_digest
from ofatvm.compiler.gpu_lower import argument_shapes
from ofatvm.compiler.relax import Program
from ofatvm.device.base import Device
from ofatvm.events import Event, Notice, ignore
from ofatvm.graph import operator_graph
from ofatvm.pipeline.device_choice import NONE, no_gpu
from ofatvm.pipeline.references import HOLDS_AFTER, begin_anew, hold
from ofatvm.pipeline.setup import Setup, built, program_path
from ofatvm.predict.features import BlockTable
from ofatvm.store import Store


def gpu_programs(setup: Setup, archs: Sequence[Arch], folder: Path) -> list[Program]:
    """Programs for measuring, built in the setup's worker processes; those in `folder` are kept.

    Each takes some 10 s of CPU time and more, as nvcc compiles all of its kernels.
    """
    paths = [program_path(folder, arch, gpu_digest(setup, [arch])) for arch in archs]
    graphs = [operator_graph(arch) for arch in archs]
    missing = [place for place, path in enumerate(paths) if not path.is_file()]
    jobs = [
        setup.executor.submit(
            gpu.build_gpu_program,
            graphs[place],
            setup.target,
            paths[place],
            traces_of(setup, [archs[place]]),
        )
        for place in missing
    ]
    built(jobs)
    return [
        Program(path, (), (), shapes=tuple(argument_shapes(graph)))
        for path, graph in zip(paths, graphs, strict=True)
    ]


def gpu_digest(setup: Setup, archs: Sequence[Arch]) -> str:
    """12 hex digits over the kernels of some networks: workloads, target, and the compiler."""
    keys = ",".join(sorted(workload.key for workload in setup.workloads(archs)))
    return _digest(keys, setup.target.fingerprint, *_words(traces_of(setup, archs)))


def traces_of(setup: Setup, archs: Sequence[Arch]) -> dict[str, str]:
    """The tuned schedules among those of some networks, by their workloads' keys."""
    traces = setup.traces.configs
    keys = sorted(workload.key for workload in setup.workloads(archs))
    return {key: traces[key] for key in keys if traces.get(key)}


def space_digest(setup: Setup) -> str:
    """12 hex digits over all kernels of the setup's space."""
    from ofatvm.tuning.workloads import space_workloads

    uses = space_workloads(setup.space, setup.resolution)
    keys = sorted({use.workload.key for use in uses})
    traces = {key: trace for key in keys if (trace := setup.traces.configs.get(key))}
    return _digest(",".join(keys), setup.target.fingerprint, *_words(traces))


def known_costs(setup: Setup, on_event: Callable[[Event], None] = ignore) -> BlockTable:
    """What is known of latencies before any is measured: MACs, as kernels are not timed alone."""
    on_event(
        Notice(
            "info",
            "kernels are not timed alone on a GPU: the latency model starts from MACs, not from "
            "the sum of kernel times",
        )
    )
    table: BlockTable = setup.tables.macs_table()
    return table


@contextmanager
def open_gpu(
    setup: Setup,
    store: Store,
    yardstick: Program,
    run: str,
    *,
    fresh: bool = False,
    on_event: Callable[[Event], None] = ignore,
) -> Iterator[Device]:
    """The boards of the setup, ready to measure; the yardstick's time is kept in the store.

    `fresh` forgets what the store holds of them.
    """
    from ofatvm.device.gpu import GpuDevice
    from ofatvm.device.rpc_address import parse_address

    key = f"yardstick-{yardstick.path.stem}"
    device = GpuDevice(
        parse_address(setup.device, allow_network=setup.allow_network),
        yardstick,
        allow_network=setup.allow_network,
        on_event=on_event,
    )
    with device:
        if fresh:
            begin_anew(store, run, [key])
        hold(store, run, key, device.visit_reference, HOLDS_AFTER)
        yield device


def require_gpu(setup: Setup) -> None:
    """Raise DeviceError if a GPU's code is to be run and no board was named."""
    if setup.device == NONE:
        raise no_gpu(setup.target)


def _words(traces: Mapping[str, str]) -> list[str]:
    return [f"{key} {trace}" for key, trace in traces.items()]


def _digest(*parts: str) -> str:
    text = "\n".join([code_digest("gpu", metadata.version("apache-tvm")), *parts])
    return hashlib.sha256(text.encode()).hexdigest()[:12]
