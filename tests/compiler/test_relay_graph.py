"""Graphs for TVM's graph executor: well formed, and no tensor written while it is still read."""

from __future__ import annotations

from typing import Any

import pytest

from ofatvm.compiler.plan import Workload, kernel_calls
from ofatvm.compiler.relay_graph import kernel_program, network_graph
from ofatvm.graph import operator_graph
from ofatvm.relay.blocks import Blocking, argument_shapes
from ofatvm.spaces import find_space

BLOCKING = Blocking(8, 8)


def kernel(workload: Workload) -> list[dict[str, Any]]:
    """What `relay.build` says of a workload: a scale is a function of its own."""
    shapes = argument_shapes(workload, BLOCKING)
    out = list(BLOCKING.tensor(workload.out_shape))
    inputs = list(range(len(shapes)))
    if not workload.scaled:
        return [{"function": workload.key, "inputs": inputs, "shape": out}]
    scale = 1 + bool(workload.is_compute) + workload.bias
    rest = [place for place in inputs[1:] if place != scale]
    first = {"function": "multiply", "inputs": [0, scale], "shape": list(shapes[0])}
    return [first, {"function": workload.key, "inputs": [-1, *rest], "shape": out}]


def graph_of(space: str, seed: int) -> dict[str, Any]:
    import numpy as np

    arch = find_space(space).sample(np.random.default_rng(seed))
    calls = kernel_calls(operator_graph(arch))
    kernels = {call.workload: kernel(call.workload) for call in calls}
    return network_graph(calls, kernels, BLOCKING)


@pytest.mark.parametrize("space", ["small28", "mbv3w1.0"])
@pytest.mark.parametrize("seed", range(3))
def test_storage_is_shared_and_never_overwritten_before_its_last_reader(
    space: str, seed: int
) -> None:
    graph = graph_of(space, seed)
    storage = graph["attrs"]["storage_id"][1]
    holds: dict[int, int] = {}
    for place, node in enumerate(graph["nodes"]):
        if node["op"] == "null":
            assert storage[place] not in holds
        for source, *_ in node["inputs"]:
            assert holds[storage[source]] == source
        # What a node reads and what it writes never share memory.
        assert storage[place] not in {storage[source] for source, *_ in node["inputs"]}
        holds[storage[place]] = place
    ((output, *_),) = graph["heads"]
    assert holds[storage[output]] == output
    operators = sum(node["op"] == "tvm_op" for node in graph["nodes"])
    arguments = len(graph["arg_nodes"])
    assert len(set(storage)) - arguments < operators / 4


def test_arguments_are_the_input_and_each_call_s_weights() -> None:
    graph = graph_of("small28", 0)
    names = [graph["nodes"][place]["name"] for place in graph["arg_nodes"]]
    assert names[0] == "x"
    assert {"stem.0", "stem.1", "head.feature.0", "head.classifier.1"} <= set(names)
    assert "head.feature.1" not in names  # it has no bias
    assert len(names) == len(set(names))
    counts = {len(graph["attrs"][name][1]) for name in ("dltype", "shape", "storage_id")}
    assert counts == {len(graph["nodes"])}


def test_a_kernel_alone_takes_all_its_arguments() -> None:
    workload = Workload("pointwise", (7, 7, 64), (7, 7, 32), scaled=True, residual=True)
    graph = kernel_program(workload, kernel(workload), BLOCKING)
    assert len(graph["arg_nodes"]) == 5
    shapes = [graph["attrs"]["shape"][1][place] for place in graph["arg_nodes"]]
    assert tuple(map(tuple, shapes)) == argument_shapes(workload, BLOCKING)
