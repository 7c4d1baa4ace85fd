"""Networks of the Relay road as the pipeline handles them: programs for measuring, and versions."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import networkx as nx

from ofatvm.arch import Arch
from ofatvm.compiler.base import library_digest
from ofatvm.compiler.relax import Program, Weights
from ofatvm.compiler.relay_env import relay_versions
from ofatvm.graph import operator_graph
from ofatvm.pipeline.setup import Setup, program_path
from ofatvm.road import Ir
from ofatvm.text import counted


def relay_programs(setup: Setup, archs: Sequence[Arch], folder: Path) -> list[Program]:
    """Graphs for the executor over the library's kernels; making one takes milliseconds."""
    kernels = setup.relay_library.require(setup.workloads(archs))
    programs = []
    for arch in archs:
        used = [kernels[workload] for workload in setup.workloads([arch])]
        path = program_path(folder, arch, library_digest(used)).with_suffix(".json")
        programs.append(setup.relay_library.program(operator_graph(arch), path))
    return programs


def build_through_relay(
    setup: Setup, graph: nx.DiGraph[str], weights: Weights, model: Path
) -> tuple[str, ...]:
    """Link a network with its weights to `model` by `relay.build`; what the manifest notes."""
    made = setup.relay_library.build_model(graph, weights, model)
    return (f"compiled by relay.build; the graph executor calls {counted(made, 'kernel')}",)


def road_versions(ir: Ir) -> dict[str, str]:
    """Versions that a latency belongs to: those of the compiler, and our own."""
    own = {"ofatvm": metadata.version("ofatvm")}
    if ir == "relay":
        return {**relay_versions(), **own}
    return {name: metadata.version(name) for name in ("apache-tvm", "apache-tvm-ffi")} | own
