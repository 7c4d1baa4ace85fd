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
        (_, data, dtype), (_, weight, _), strides, padding, dilation, *_ = arguments
        (batch, channels, height, width), (out, inner, size, other) = map(tuple, (data, weight))
    except (TypeError, ValueError):
        return None
    sizes = (batch, channels, height, width, out, inner, size, other)
    if not all(type(number) is int and number > 0 for number in sizes):
        return None
    depthwise = template == DEPTHWISE
    stride, half = _alike(strides, (2,)), size // 2
    fits = (
        template in (CONVOLUTION, DEPTHWISE)
        and dtype == "float32"
        and (batch, size, inner) == (1, other, 1 if depthwise else channels)
        and stride in (1, 2)
        and _alike(padding, (2, 4)) == half
        and _alike(dilation, (2,)) == 1
    )
    if not fits:
        return None
    name = "depthwise" if depthwise else "conv"
    return f"{name}_c{channels}x{height}x{width}_o{out}_k{size}s{stride}"


def _alike(value: Any, lengths: tuple[int, ...]) -> int | None:
    """The number that stands for all directions: alone, or in a list of one of these lengths."""
    numbers = value if isinstance(value, list) else [value] * lengths[0]
    same = len(numbers) in lengths and all(number == numbers[0] for number in numbers)
    return numbers[0] if same and type(numbers[0]) is int else None


def extents(key: str) -> dict[str, int]:
    """The sizes in a task's key that its template's tiles cut, by the tiles' names.

    The template of 1x1 convolutions tiles rows, too; the others' unrolls the kernel instead.
    """
    name, data, out, size = key.split("_")
    channels, height, width = map(int, data[1:].split("x"))
    kernel, stride = map(int, size[1:].split("s"))
    rows, columns = ((n + 2 * (kernel // 2) - kernel) // stride + 1 for n in (height, width))
    found = {"tile_ic": channels, "tile_oc": int(out[1:]), "tile_ow": columns}
    return found | ({"tile_oh": rows} if (name, kernel) == ("conv", 1) else {"unroll_kw": 1})
