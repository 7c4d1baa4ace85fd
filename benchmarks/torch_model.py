"""An operator graph as a PyTorch module with folded weights: what eager and inductor run."""

from __future__ import annotations

import networkx as nx
import numpy as np
import torch
from torch import Tensor, nn

from ofatvm.compiler.relax import Weights
from ofatvm.graph import Operator, operators


class GraphModule(nn.Module):
    """Plain convolutions with bias, activations in place; NCHW in, (1, classes) out."""

    def __init__(self, graph: nx.DiGraph[str], weights: Weights) -> None:
        """One layer per operator with a weight."""
        super().__init__()
        self.layers = nn.ModuleList()
        self.steps: list[tuple[str, int, tuple[int, ...]]] = []
        places = {"input": 0}
        for name, operator in operators(graph).items():
            if operator.kind == "input":
                continue
            sources = tuple(places[source] for source in graph.predecessors(name))
            places[name] = len(places)
            self.steps.append((operator.kind, len(self.layers), sources))
            if operator.weight_shape is not None:
                self.layers.append(_layer(operator, *weights[name]))
        last = {source: number for number, (*_, used) in enumerate(self.steps) for source in used}
        self.last_use = [last.get(place, len(self.steps)) for place in range(len(places))]

    def forward(self, x: Tensor) -> Tensor:
        """Logits; tensors are given up after their last use."""
        held: dict[int, Tensor] = {0: x}
        for number, (kind, layer, sources) in enumerate(self.steps):
            given = [held[source] for source in sources]
            if kind == "mean":
                y = given[0].mean((2, 3))
            elif kind == "scale":
                y = given[0] * given[1][:, :, None, None]
            elif kind == "add":
                y = given[0] + given[1]
            else:
                y = self.layers[layer](given[0])
            held[number + 1] = y
            for source in sources:
                if self.last_use[source] == number:
                    held.pop(source, None)
        return y


def _layer(operator: Operator, weight: np.ndarray, bias: np.ndarray | None) -> nn.Module:
    channels_in, channels_out = operator.in_shape[-1], operator.out_shape[-1]
    layer: nn.Conv2d | nn.Linear
    if operator.kind == "dense":
        layer = nn.Linear(channels_in, channels_out, bias=bias is not None)
        weight = weight.T
    else:
        layer = nn.Conv2d(
            channels_in,
            channels_out,
            operator.kernel,
            operator.stride,
            padding=operator.kernel // 2,
            groups=channels_in if operator.kind == "depthwise" else 1,
            bias=bias is not None,
        )
        if operator.kind == "conv":
            weight = weight.transpose(3, 2, 0, 1)
        elif operator.kind == "depthwise":
            weight = weight.transpose(2, 0, 1)[:, None]
        else:
            weight = weight.T[:, :, None, None]
    layer.weight = nn.Parameter(torch.from_numpy(np.ascontiguousarray(weight)))
    if bias is not None:
        layer.bias = nn.Parameter(torch.from_numpy(bias.copy()))
    activations: dict[str, nn.Module] = {
        "relu": nn.ReLU(inplace=True),
        "h_swish": nn.Hardswish(inplace=True),
        "h_sigmoid": nn.Hardsigmoid(inplace=True),
    }
    act = operator.activation
    return nn.Sequential(layer, activations[act]) if act else layer


def exact_output(graph: nx.DiGraph[str], weights: Weights, image: np.ndarray) -> np.ndarray:
    """The output in float64 for an NHWC `image`: what every runtime's output is compared with."""
    module = GraphModule(graph, weights).double().eval()
    with torch.inference_mode():
        x = torch.from_numpy(image.transpose(0, 3, 1, 2).copy()).double()
        result: np.ndarray = module(x).numpy()
    return result
