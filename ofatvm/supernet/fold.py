"""Weights as compiled code wants them: batch norm folded in, NHWC layouts, numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ofatvm.arch import Arch
from ofatvm.errors import ArchError, CheckpointError
from ofatvm.graph import Operator, operator_graph, operators
from ofatvm.supernet.layers import BN_EPS
from ofatvm.supernet.net import Subnet

FloatArray = npt.NDArray[np.float32]
_Doubles = npt.NDArray[np.float64]

_FIXED = {
    "stem": "first_conv",
    "first.depthwise": "blocks.0.conv.depth_conv",
    "first.project": "blocks.0.conv.point_linear",
    "head.expand": "final_expand_layer",
    "head.feature": "feature_mix_layer.conv",
    "head.classifier": "classifier.linear",
}
_IN_BLOCK = {
    "expand": "conv.inverted_bottleneck",
    "depthwise": "conv.depth_conv",
    "se.reduce": "conv.depth_conv.se.fc.reduce",
    "se.expand": "conv.depth_conv.se.fc.expand",
    "project": "conv.point_linear",
}


def folded_weights(subnet: Subnet, arch: Arch) -> dict[str, tuple[FloatArray, FloatArray | None]]:
    """Operator graph's node name -> (weight, bias), float32, for every node that has a weight.

    `weight` has `Operator.weight_shape`; `bias` is (out_channels,), or None where there is neither
    norm nor bias. Folding is done in float64.
    """
    if (subnet.arch.kernels, subnet.arch.expands) != (arch.kernels, arch.expands):
        raise ArchError(f"the subnet was cut out as {subnet.arch}, not as {arch}")
    state = {
        name: tensor.detach().cpu().numpy().astype(np.float64)
        for name, tensor in subnet.state_dict().items()
    }
    prefixes = _prefixes(arch)
    return {
        name: _fold(name, operator, state, prefixes[name])
        for name, operator in operators(operator_graph(arch)).items()
        if operator.weight_shape is not None
    }


def _prefixes(arch: Arch) -> dict[str, str]:
    prefixes = dict(_FIXED)
    for index, (stage, position, _, _) in enumerate(arch.active_blocks(), 1):
        for node, prefix in _IN_BLOCK.items():
            name = f"stage{stage + 1}.block{position + 1}.{node}"
            prefixes[name] = f"blocks.{index}.{prefix}"
    return prefixes


def _fold(
    name: str, operator: Operator, state: dict[str, _Doubles], prefix: str
) -> tuple[FloatArray, FloatArray | None]:
    bias: _Doubles | None = None
    if operator.batch_norm:
        norm = {
            part: state[f"{prefix}.bn.{part}"]
            for part in ("weight", "bias", "running_mean", "running_var")
        }
        scale = norm["weight"] / np.sqrt(norm["running_var"] + BN_EPS)
        weight = state[f"{prefix}.conv.weight"] * scale[:, None, None, None]
        bias = norm["bias"] - norm["running_mean"] * scale
    else:
        weight = state[f"{prefix}.weight"]
        if operator.bias:
            bias = state[f"{prefix}.bias"]
    with np.errstate(over="ignore"):  # refused below
        folded = np.ascontiguousarray(_layout(operator, weight), dtype=np.float32)
        shift = None if bias is None else bias.astype(np.float32)
    if folded.shape != operator.weight_shape:
        raise ArchError(
            f"the weight of {name} is {folded.shape}, its operator needs {operator.weight_shape}"
        )
    if not np.isfinite(folded).all() or (shift is not None and not np.isfinite(shift).all()):
        raise CheckpointError(f"the weights of {name} are not finite once its norm is folded in")
    return folded, shift


def _layout(operator: Operator, weight: _Doubles) -> _Doubles:
    """From torch's (out, in / groups, kernel, kernel) to what `Operator.weight_shape` says."""
    if operator.kind == "conv":
        return weight.transpose(2, 3, 1, 0)
    if operator.kind == "depthwise":
        return weight[:, 0].transpose(1, 2, 0)
    return weight.reshape(len(weight), -1).T
