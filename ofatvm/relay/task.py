"""AutoTVM's tasks of workloads: fused kernels share the template's task of their convolution."""

from __future__ import annotations

from typing import Any

from ofatvm.compiler.plan import Workload

CONVOLUTION, DEPTHWISE = "conv2d_NCHWc.x86", "depthwise_conv2d_NCHWc.x86"
"""The templates, which serve ARM too: TVM registers them for both."""


def task_key(workload: Workload) -> str:
    """What tells tasks apart: template and shapes. Bias, activation and residual make none."""
    name = "depthwise" if workload.kind == "depthwise" else "conv"
    *pixels, channels = workload.in_shape
    height, width = pixels or (1, 1)
    return (
        f"{name}_c{channels}x{height}x{width}_o{workload.out_shape[-1]}"
        f"_k{workload.kernel}s{workload.stride}"
    )


def task_of(workload: Workload) -> tuple[str, list[Any]]:
    """A workload's task as AutoTVM's logs name it: the template and its arguments.

    These are of plain NCHW tensors, as everybody's logs have them; a config says how they are cut.
    """
    *pixels, channels = workload.in_shape
    height, width = pixels or (1, 1)
    out, size, half = workload.out_shape[-1], workload.kernel, workload.kernel // 2
    depthwise = workload.kind == "depthwise"
    weight = [out, 1 if depthwise else channels, size, size]
    return DEPTHWISE if depthwise else CONVOLUTION, [
        ["TENSOR", [1, channels, height, width], "float32"],
        ["TENSOR", weight, "float32"],
        [workload.stride, workload.stride],
        [half, half, half, half],
        [1, 1],
        "NCHW",
        "NCHW",
        "float32",
    ]


def key_of(template: str, arguments: Any) -> str | None:
    """The key of a log's task; None if no workload of ofatvm could have it."""
    try:
        (_, data, dtype), (_, weight, _) = arguments[0], arguments[1]
        strides, padding, dilation = arguments[2:5]
        batch, channels, height, width = data
        out, inner, size, other = weight
    except (TypeError, ValueError, IndexError, KeyError):
        return None
    half = size // 2 if isinstance(size, int) else -1
    depthwise = template == DEPTHWISE
    fits = (
        template in (CONVOLUTION, DEPTHWISE)
        and dtype == "float32"
        and (batch, size, inner) == (1, other, 1 if depthwise else channels)
        and list(strides) == [strides[0]] * 2
        and list(padding) in ([half, half], [half] * 4)
        and list(dilation) == [1, 1]
    )
    if not fits:
        return None
    name = "depthwise" if depthwise else "conv"
    return f"{name}_c{channels}x{height}x{width}_o{out}_k{size}s{strides[0]}"
