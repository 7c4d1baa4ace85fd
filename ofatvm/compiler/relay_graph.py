"""Graphs for TVM's graph executor: a network's kernel calls as its JSON, with storage shared.

The format is that of `relay.build` in TVM 0.19 (src/runtime/graph_executor/graph_executor.h): nodes
that are arguments ("null") or calls ("tvm_op"), and a storage number for each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ofatvm.compiler.plan import KernelCall, Workload
from ofatvm.relay.blocks import Blocking, argument_shapes

# What `relay.build` says of a kernel's calls: see `ofatvm.relay.build.kernel_graph`.
KernelGraph = Sequence[Mapping[str, Any]]


def network_graph(
    calls: Sequence[KernelCall], kernels: Mapping[Workload, KernelGraph], blocking: Blocking
) -> dict[str, Any]:
    """The executor's graph of a network over the kernels of its calls; `x` is its input.

    `x` is float32 (1, height, width, channels), which is what the first kernel reads in memory.
    """
    builder = _Builder()
    first = calls[0].workload
    tensors = {calls[0].inputs[0]: builder.argument("x", blocking.tensor(first.in_shape))}
    for call in calls:
        shapes = argument_shapes(call.workload, blocking)
        others = len(call.inputs) - 1
        held = shapes[1 : len(shapes) - others]
        arguments = [
            tensors[call.inputs[0]],
            *(builder.argument(f"{call.weights}.{n}", shape) for n, shape in enumerate(held)),
            *(tensors[name] for name in call.inputs[1:]),
        ]
        tensors[call.output] = builder.calls(kernels[call.workload], arguments)
    return builder.graph(tensors[calls[-1].output])


def kernel_program(workload: Workload, kernel: KernelGraph, blocking: Blocking) -> dict[str, Any]:
    """The executor's graph of one kernel alone; all of its arguments are inputs."""
    builder = _Builder()
    arguments = [
        builder.argument(f"a{place}", shape)
        for place, shape in enumerate(argument_shapes(workload, blocking))
    ]
    return builder.graph(builder.calls(kernel, arguments))


class _Builder:
    """Nodes in execution order, with shapes."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.shapes: list[list[int]] = []

    def argument(self, name: str, shape: Sequence[int]) -> int:
        return self._add({"op": "null", "name": name, "inputs": []}, shape)

    def calls(self, kernel: KernelGraph, arguments: Sequence[int]) -> int:
        made: list[int] = []
        for call in kernel:
            sources = [arguments[n] if n >= 0 else made[-n - 1] for n in call["inputs"]]
            attributes = {
                "num_outputs": "1",
                "num_inputs": str(len(sources)),
                "flatten_data": "0",
                "func_name": call["function"],
            }
            node = {
                "op": "tvm_op",
                "name": call["function"],
                "attrs": attributes,
                "inputs": [[source, 0, 0] for source in sources],
            }
            made.append(self._add(node, call["shape"]))
        return made[-1]

    def graph(self, output: int) -> dict[str, Any]:
        count = len(self.nodes)
        return {
            "nodes": self.nodes,
            "arg_nodes": [n for n, node in enumerate(self.nodes) if node["op"] == "null"],
            "heads": [[output, 0, 0]],
            "attrs": {
                "dltype": ["list_str", ["float32"] * count],
                "device_index": ["list_int", [1] * count],
                "storage_id": ["list_int", self._storage(output)],
                "shape": ["list_shape", self.shapes],
            },
            "node_row_ptr": list(range(count + 1)),
        }

    def _add(self, node: dict[str, Any], shape: Sequence[int]) -> int:
        self.nodes.append(node)
        self.shapes.append(list(shape))
        return len(self.nodes) - 1

    def _storage(self, output: int) -> list[int]:
        """A storage number for each node; a tensor's is free again after its last reader.

        The smallest free storage that is large enough is taken, else the largest grows, as
        Relay's own planner does.
        """
        last = dict.fromkeys(range(len(self.nodes)), len(self.nodes))
        for place, node in enumerate(self.nodes):
            for source, *_ in node["inputs"]:
                last[source] = place
        last[output] = len(self.nodes)
        sizes: list[int] = []
        free: list[int] = []
        storage: list[int] = []
        for place, node in enumerate(self.nodes):
            size = math.prod(self.shapes[place])
            fits = [s for s in free if node["op"] != "null"]
            if fits:
                enough = [s for s in fits if sizes[s] >= size]
                chosen = (
                    min(enough, key=lambda s: sizes[s])
                    if enough
                    else max(fits, key=lambda s: sizes[s])
                )
                free.remove(chosen)
                sizes[chosen] = max(sizes[chosen], size)
            else:
                chosen = len(sizes)
                sizes.append(size)
            storage.append(chosen)
            for source in {source for source, *_ in node["inputs"]}:
                if last[source] == place and self.nodes[source]["op"] != "null":
                    free.append(storage[source])
        return storage
