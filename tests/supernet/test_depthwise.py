"""The depthwise convolution and its gradients, against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ofatvm.supernet.depthwise import depthwise


@pytest.mark.parametrize("kernel", [3, 5, 7, 9])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(4, 4), (2, 5), (14, 9)])
def test_agrees_with_conv2d(kernel: int, stride: int, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(kernel)
    x = torch.randn(3, 6, *size, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(
        6, 1, kernel, kernel, generator=generator, dtype=torch.float64, requires_grad=True
    )
    ours = depthwise(x, weight, stride)
    theirs = F.conv2d(x, weight, stride=stride, padding=kernel // 2, groups=6)
    grad = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, (x, weight), grad), torch.autograd.grad(theirs, (x, weight), grad)
    )


@pytest.mark.parametrize("kernel", [3, 5])
def test_gives_only_the_gradients_that_are_wanted(kernel: int) -> None:
    x = torch.randn(2, 4, 4, 4)
    weight = torch.randn(4, 1, kernel, kernel, requires_grad=True)
    depthwise(x, weight, 1).sum().backward()
    assert x.grad is None
    assert weight.grad is not None
    with torch.no_grad():
        assert not depthwise(x, weight, 1).requires_grad


def test_of_a_frozen_weight_the_input_still_learns() -> None:
    x = torch.randn(2, 4, 4, 4, requires_grad=True)
    depthwise(x, torch.randn(4, 1, 5, 5), 1).sum().backward()
    assert x.grad is not None
