"""Channel sorting: the most important inner channels of every block come first.

Importance of a channel is the L1 norm of its column in the weight that reads it (OFA, ICLR 2020,
section 3.3). The largest network computes the same function before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ofatvm.supernet.layers import ElasticBlock, ElasticSqueezeExcite, squeeze_width
from ofatvm.supernet.net import Supernet


def sort_channels(supernet: Supernet, *, expands: int) -> None:
    """Sort the inner channels of every elastic block, in place.

    `expands` is how many expand ratios, counted from the largest, were open so far. A channel stays
    within the band between two of their widths, since subnets of those ratios depend on it.
    """
    space = supernet.space
    for index, block in enumerate(supernet.blocks):
        if isinstance(block, ElasticBlock):
            stage, position = divmod(index - 1, space.max_depth)
            widths = [space.mid_channels(stage, position, e) for e in space.expands[-expands:]]
            _sort_block(block, widths)


def _sort_block(block: ElasticBlock, widths: Sequence[int]) -> None:
    conv = block.conv
    reader = conv.point_linear.conv.conv.weight
    order = _order(reader, widths)
    expand, depthwise = conv.inverted_bottleneck, conv.depth_conv
    _permute(reader, 1, order)
    _permute(expand.conv.conv.weight, 0, order)
    _permute(depthwise.conv.conv.weight, 0, order)
    for norm in (expand.bn.bn, depthwise.bn.bn):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            _permute(tensor, 0, order)
    if depthwise.se is not None:
        _permute(depthwise.se.fc["reduce"].weight, 1, order)
        _permute(depthwise.se.fc["expand"].weight, 0, order)
        _permute(depthwise.se.fc["expand"].bias, 0, order)
        _sort_squeezed(depthwise.se, widths)


def _sort_squeezed(layer: ElasticSqueezeExcite, widths: Sequence[int]) -> None:
    """Sort the channels between the two dense layers, whose active number follows the width."""
    reduce, expand = layer.fc["reduce"], layer.fc["expand"]
    order = _order(expand.weight, sorted({squeeze_width(width) for width in widths}))
    _permute(expand.weight, 1, order)
    _permute(reduce.weight, 0, order)
    _permute(reduce.bias, 0, order)


def _order(reader: Tensor, widths: Sequence[int]) -> Tensor:
    """Input channels of `reader` (out, in, 1, 1), the most important first in each band."""
    importance = reader.detach().abs().sum((0, 2, 3))
    edges = [0, *widths]
    return torch.cat(
        [
            low + torch.argsort(importance[low:high], descending=True, stable=True)
            for low, high in pairwise(edges)
        ]
    )


def _permute(tensor: Tensor, axis: int, order: Tensor) -> None:
    with torch.no_grad():
        tensor.copy_(tensor.index_select(axis, order))
