"""MobileNetV3-Large 1.0 as published (arXiv 1905.02244), as an operator graph with random weights.

It is no subnet of the OFA space, whose expansions are multiples of a block's input.
"""

from __future__ import annotations

import math

import networkx as nx
import numpy as np

from ofatvm.arch import make_divisible
from ofatvm.compiler.relax import Weights
from ofatvm.graph import _Builder, operators

# kernel, expansion, output channels, squeeze-and-excite, activation, stride
BLOCKS = (
    (3, 16, 16, False, "relu", 1),
    (3, 64, 24, False, "relu", 2),
    (3, 72, 24, False, "relu", 1),
    (5, 72, 40, True, "relu", 2),
    (5, 120, 40, True, "relu", 1),
    (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, "h_swish", 2),
    (3, 200, 80, False, "h_swish", 1),
    (3, 184, 80, False, "h_swish", 1),
    (3, 184, 80, False, "h_swish", 1),
    (3, 480, 112, True, "h_swish", 1),
    (3, 672, 112, True, "h_swish", 1),
    (5, 672, 160, True, "h_swish", 2),
    (5, 960, 160, True, "h_swish", 1),
    (5, 960, 160, True, "h_swish", 1),
)
STEM, HEAD, FEATURE, CLASSES = 16, 960, 1280, 1000


def mobilenet_v3_large(resolution: int = 224) -> nx.DiGraph[str]:
    """The operators, named like those of `ofatvm.graph.operator_graph`."""
    builder = _Builder(3, resolution)
    x = builder.conv("stem", "input", STEM, 3, 2, "h_swish")
    channels = STEM
    for number, (kernel, mid, width, squeeze, activation, stride) in enumerate(BLOCKS, 1):
        name, skip = f"block{number}", x
        if mid != channels:
            x = builder.pointwise(f"{name}.expand", x, mid, activation)
        x = builder.depthwise(f"{name}.depthwise", x, kernel, stride, activation)
        if squeeze:
            s = builder.mean(f"{name}.se.mean", x)
            narrow = make_divisible(mid // 4)
            s = builder.dense(f"{name}.se.reduce", s, narrow, "relu", bias=True)
            s = builder.dense(f"{name}.se.expand", s, mid, "h_sigmoid", bias=True)
            x = builder.scale(f"{name}.se.scale", x, s)
        x = builder.pointwise(f"{name}.project", x, width, "")
        if stride == 1 and width == channels:
            x = builder.add(f"{name}.add", x, skip)
        channels = width
    x = builder.pointwise("head.expand", x, HEAD, "h_swish")
    x = builder.mean("head.mean", x)
    x = builder.dense("head.feature", x, FEATURE, "h_swish", bias=True)
    builder.dense("head.classifier", x, CLASSES, "", bias=True)
    return builder.graph


def random_weights(graph: nx.DiGraph[str], seed: int) -> Weights:
    """Folded weights that keep activations in range; blocks with a shortcut at half strength."""
    rng = np.random.default_rng(seed)
    weights: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    for name, operator in operators(graph).items():
        shape = operator.weight_shape
        if shape is None:
            continue
        fan_in = math.prod(shape[:-1])
        strength = math.sqrt((2 if operator.activation else 1) / fan_in)
        if any(reader.endswith(".add") for reader in graph.successors(name)):
            strength *= 0.5
        weight = rng.standard_normal(shape, dtype=np.float32) * np.float32(strength)
        bias = rng.standard_normal(shape[-1], dtype=np.float32) * np.float32(0.1)
        weights[name] = (weight, bias if operator.batch_norm or operator.bias else None)
    return weights
