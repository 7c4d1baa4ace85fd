"""A depthwise convolution whose weight gradient is fast on small maps, too."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 3


def depthwise(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Convolve (n, c, h, w) by (c, 1, k, k), k odd, padded by k // 2.

    The same as `F.conv2d` with c groups but for the rounding of the weight's gradient: oneDNN is
    slow at it where the map is smaller than the kernel, and there it is put together of 3x3 pieces
    (`benchmarks/depthwise_gradient.py` times both).
    """
    learns = torch.is_grad_enabled() and weight.requires_grad
    if not learns or min(x.shape[-2:]) >= weight.shape[-1]:
        return _convolved(x, weight, stride)
    y: Tensor = _Depthwise.apply(x, weight, stride)
    return y


def _convolved(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=len(weight))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return _convolved(x, weight, stride)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, _ = ctx.needs_input_grad
        grad_x = None
        if needs_x:
            padding = weight.shape[-1] // 2
            grad_x, _ = _gradients(grad, x, weight, ctx.stride, padding, (True, False))
        return grad_x, _grad_weight(grad, x, weight, ctx.stride) if needs_weight else None, None


def _grad_weight(grad: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Of every 3x3 piece of the kernel: the input as that piece sees it is a shifted one."""
    kernel = weight.shape[-1]
    padded = F.pad(x, [kernel // 2] * 4)
    height, width = (stride * (edge - 1) + TILE for edge in grad.shape[-2:])
    starts = [*range(0, kernel - TILE, TILE), kernel - TILE]
    whole = torch.empty_like(weight)
    for top in starts:
        for left in starts:
            rows, columns = slice(top, top + TILE), slice(left, left + TILE)
            seen = padded[:, :, top : top + height, left : left + width]
            _, piece = _gradients(grad, seen, weight[:, :, rows, columns], stride, 0, (False, True))
            whole[:, :, rows, columns] = piece
    return whole


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        None,
        [stride] * 2,
        [padding] * 2,
        [1, 1],
        False,
        [0, 0],
        len(weight),
        [*wanted, False],
    )
    return grad_x, grad_weight
