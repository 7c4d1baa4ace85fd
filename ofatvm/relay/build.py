"""Machine code through `relay.build`: single kernels for the library, and networks that ship."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ofatvm.compiler.link import Tool, link_with
from ofatvm.compiler.plan import KernelCall, Workload
from ofatvm.files import replace_file, scratch
from ofatvm.relay.blocks import Blocking, Config
from ofatvm.relay.dispatch import configured, shapes_key
from ofatvm.relay.expr import network_module, workload_module

OPT_LEVEL = 3
CALLS = ".calls.json"


@dataclass(frozen=True, slots=True)
class KernelJob:
    """A workload to compile: under which config, its functions' prefix, and where to."""

    workload: Workload
    config: Config
    symbol: str
    path: str


def compile_kernels(
    jobs: Sequence[KernelJob], target: Mapping[str, Any], blocking: Blocking, linker: Tool
) -> None:
    """Write each kernel's shared library at `path`, beside it (.calls.json) the graph of its calls.

    A workload is one fused function, or two where Relay does not fuse a scale into a convolution.
    """
    import tvm
    from tvm import relay

    built_for = tvm.target.Target(dict(target))
    for job in jobs:
        module = workload_module(job.workload, blocking)
        with chosen([job.workload], [job.config], blocking), passes():
            built = relay.build(module, target=built_for, mod_name=job.symbol)
        path = Path(job.path)
        graph = json.dumps(kernel_graph(json.loads(built.graph_json)))
        with scratch("kernel", path.parent) as room:
            library = room / path.name
            built.export_library(str(library), fcompile=partial(link_with, linker))
            replace_file(path.with_suffix(CALLS), graph.encode())
            library.replace(path)


def kernel_graph(graph: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The calls of a built graph: function, inputs and output shape of each.

    An input that is not negative is an argument's number; -1 is the first call's output, and so on.
    """
    shapes = graph["attrs"]["shape"][1]
    numbers: dict[int, int] = {}
    calls: list[dict[str, Any]] = []
    arguments = 0
    for place, node in enumerate(graph["nodes"]):
        if node["op"] == "null":
            numbers[place] = arguments
            arguments += 1
            continue
        assert node["attrs"]["func_name"] != "__nop", "kernels have no reshapes"
        calls.append(
            {
                "function": node["attrs"]["func_name"],
                "inputs": [numbers[source] for source, *_ in node["inputs"]],
                "shape": shapes[place],
            }
        )
        numbers[place] = -len(calls)
    return calls


def build_network(
    calls: Sequence[KernelCall],
    configs: Mapping[Workload, Config],
    weights: Mapping[str, Sequence[np.ndarray]],
    target: Mapping[str, Any],
    blocking: Blocking,
    path: str,
    linker: Tool,
) -> int:
    """Write the graph executor's library of a network with its weights; how many calls it makes.

    Graph and weights are inside.
    """
    import tvm
    from tvm import relay

    workloads = [call.workload for call in calls]
    module = network_module(calls, weights, blocking)
    points = [configs.get(workload, "") for workload in workloads]
    with chosen(workloads, points, blocking), passes():
        built = relay.build(module, target=tvm.target.Target(dict(target)), mod_name="default")
    built.export_library(path, fcompile=partial(link_with, linker))
    nodes = json.loads(built.graph_json)["nodes"]
    # Reshapes of input and output are nodes of the graph, but call nothing.
    return sum(n["op"] != "null" and n["attrs"]["func_name"] != "__nop" for n in nodes)


def chosen(workloads: Sequence[Workload], configs: Sequence[Config], blocking: Blocking) -> Any:
    """A context in which templates use these configs of the workloads."""
    return configured(
        {
            shapes_key(workload, blocking): config
            for workload, config in zip(workloads, configs, strict=True)
            if config and workload.is_compute
        }
    )


def passes() -> Any:
    """The pass context of all builds."""
    import tvm

    return tvm.transform.PassContext(opt_level=OPT_LEVEL)
