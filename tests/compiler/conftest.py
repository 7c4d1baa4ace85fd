"""What tests of generated code share: reference results, and kernels that run here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ofatvm.compiler.plan import Workload


def _window(workload: Workload, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    import torch
    from torch.nn.functional import conv2d

    image = torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)[None]
    if workload.kind == "conv":
        kernel, groups = torch.from_numpy(weight).permute(3, 2, 0, 1), 1
    else:
        kernel, groups = torch.from_numpy(weight).permute(2, 0, 1)[:, None], weight.shape[-1]
    padding = workload.kernel // 2
    out = conv2d(image, kernel, stride=workload.stride, padding=padding, groups=groups)
    return np.asarray(out[0].permute(1, 2, 0).numpy())


def _activate(value: np.ndarray, activation: str) -> np.ndarray:
    gate = np.clip(value + 3.0, 0.0, 6.0) / 6.0
    return {
        "": value,
        "relu": np.maximum(value, 0.0),
        "h_swish": value * gate,
        "h_sigmoid": gate,
    }[activation]


@pytest.fixture(scope="session")
def reference() -> Callable[[Workload, list[np.ndarray]], np.ndarray]:
    """A workload's result by numpy and torch; arguments in its own order, without the output."""

    def compute(workload: Workload, arguments: list[np.ndarray]) -> np.ndarray:
        rest = list(arguments)
        x = rest.pop(0)
        weight = rest.pop(0) if workload.is_compute else np.empty(0)
        bias = rest.pop(0) if workload.is_compute and workload.bias else 0.0
        if workload.scaled:
            x = x * rest.pop(0)
        if workload.kind == "mean":
            value = x.mean((0, 1))
        elif workload.kind in ("pointwise", "dense"):
            value = x @ weight
        else:
            value = _window(workload, x, weight)
        value = _activate(value + bias, workload.activation)
        return value + rest.pop(0) if workload.residual else value

    return compute
