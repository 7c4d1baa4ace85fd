"""An operator graph as an ONNX model: what runtimes other than ours are given to run."""

from __future__ import annotations

import networkx as nx
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ofatvm.compiler.relax import Weights
from ofatvm.graph import Operator, operators

OPSET = 17


def onnx_model(graph: nx.DiGraph[str], weights: Weights) -> onnx.ModelProto:
    """The graph with folded weights in ONNX's own operators, NCHW, input `x`, output `logits`."""
    every = operators(graph)
    builder = _Builder()
    tensors = {"input": "x"}
    for name, operator in every.items():
        if operator.kind == "input":
            continue
        inputs = [tensors[source] for source in graph.predecessors(name)]
        tensors[name] = builder.add(name, operator, inputs, weights.get(name))
    _, height, width, channels = every["input"].out_shape
    last, final = list(every.items())[-1]
    builder.nodes.append(helper.make_node("Flatten", [tensors[last]], ["logits"]))
    model = helper.make_model(
        helper.make_graph(
            builder.nodes,
            "subnet",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, height, width])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, list(final.out_shape))],
            builder.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    return model


class _Builder:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(
        self,
        name: str,
        operator: Operator,
        inputs: list[str],
        weight: tuple[np.ndarray, np.ndarray | None] | None,
    ) -> str:
        """Append the nodes of one operator; returns the tensor they end in."""
        kind = operator.kind
        if kind == "mean":
            value = self._node("GlobalAveragePool", inputs, name)
        elif kind in ("scale", "add"):
            value = self._node("Mul" if kind == "scale" else "Add", inputs, name)
        else:
            assert weight is not None
            names = [self._constant(f"{name}.weight", _conv_weight(operator, weight[0]))]
            if weight[1] is not None:
                names.append(self._constant(f"{name}.bias", weight[1]))
            pad = operator.kernel // 2
            value = self._node(
                "Conv",
                [*inputs, *names],
                name,
                kernel_shape=[operator.kernel] * 2,
                strides=[operator.stride] * 2,
                pads=[pad] * 4,
                group=operator.in_shape[-1] if kind == "depthwise" else 1,
            )
        return self._activation(operator.activation, value, name)

    def _activation(self, activation: str, value: str, name: str) -> str:
        if not activation:
            return value
        if activation == "h_sigmoid":
            return self._node("HardSigmoid", [value], f"{name}.act", alpha=1 / 6, beta=0.5)
        op = {"relu": "Relu", "h_swish": "HardSwish"}[activation]
        return self._node(op, [value], f"{name}.act")

    def _node(self, op: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def _constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name


def _conv_weight(operator: Operator, weight: np.ndarray) -> np.ndarray:
    """To ONNX's (out, in / groups, height, width)."""
    if operator.kind == "conv":
        return weight.transpose(3, 2, 0, 1)
    if operator.kind == "depthwise":
        return weight.transpose(2, 0, 1)[:, None]
    return weight.T[:, :, None, None]
