"""Relay expressions of workloads and of whole networks, in NCHWc from the first operator on.

Built operator by operator from the fusion plan, without a tracer and without layout passes: weights
come packed, batch norms folded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ofatvm.compiler.plan import KernelCall, Workload
from ofatvm.relay.blocks import Blocking, argument_shapes

if TYPE_CHECKING:
    import numpy as np

INPUT, OUTPUT = "x", "logits"


def workload_module(workload: Workload, blocking: Blocking) -> Any:
    """An IRModule whose `main` computes the workload of its arguments, all of them variables."""
    import tvm
    from tvm import relay

    variables = [
        relay.var(f"a{place}", shape=shape, dtype="float32")
        for place, shape in enumerate(argument_shapes(workload, blocking))
    ]
    body = workload_expr(workload, variables, blocking)
    return tvm.IRModule.from_expr(relay.Function(variables, body))


def network_module(
    calls: Sequence[KernelCall],
    weights: Mapping[str, Sequence[np.ndarray]],
    blocking: Blocking,
) -> Any:
    """An IRModule of a whole network; `weights`: the packed weight and bias of a call's node.

    `main`: float32 (1, height, width, channels) -> float32 (1, classes).
    """
    import tvm
    from tvm import relay

    first, last = calls[0].workload, calls[-1].workload
    image = relay.var(INPUT, shape=(1, *first.in_shape), dtype="float32")
    tensors = {calls[0].inputs[0]: relay.reshape(image, blocking.tensor(first.in_shape))}
    for call in calls:
        source, *others = (tensors[name] for name in call.inputs)
        held = [relay.const(array) for array in weights.get(call.weights, ())]
        tensors[call.output] = workload_expr(call.workload, [source, *held, *others], blocking)
    logits = relay.reshape(tensors[calls[-1].output], (1, last.out_shape[-1]))
    return tvm.IRModule.from_expr(relay.Function([image], logits))


def workload_expr(workload: Workload, arguments: Sequence[Any], blocking: Blocking) -> Any:
    """What the workload computes of its arguments, which stand as `argument_shapes` says."""
    from tvm import relay

    rest = list(arguments)
    x = rest.pop(0)
    block = blocking.tensor(workload.in_shape)[-1]
    out_block = blocking.tensor(workload.out_shape)[-1]
    layout, out_layout = f"NCHW{block}c", f"NCHW{out_block}c"
    if workload.kind == "mean":
        return relay.nn.global_avg_pool2d(x, layout=layout)
    weight = rest.pop(0)
    bias = rest.pop(0) if workload.bias else None
    if workload.scaled:
        x = relay.multiply(x, rest.pop(0))
    depthwise = workload.kind == "depthwise"
    convolution = (
        relay.nn.contrib_depthwise_conv2d_nchwc if depthwise else relay.nn.contrib_conv2d_nchwc
    )
    x = convolution(
        x,
        weight,
        channels=workload.out_shape[-1],
        kernel_size=(workload.kernel, workload.kernel),
        strides=(workload.stride, workload.stride),
        padding=_padding(workload),
        groups=workload.out_shape[-1] if depthwise else 1,
        data_layout=layout,
        kernel_layout=f"OIHW1i{out_block}o" if depthwise else f"OIHW{block}i{out_block}o",
        out_layout=out_layout,
        out_dtype="float32",
    )
    if bias is not None:
        x = relay.add(x, bias)
    x = ACTIVATIONS[workload.activation](x)
    return relay.add(x, rest.pop(0)) if workload.residual else x


def _padding(workload: Workload) -> tuple[int, int, int, int]:
    """Top, left, bottom and right: half the kernel on every side, as in the operator graph."""
    half = workload.kernel // 2
    return (half, half, half, half)


def _hard_sigmoid(x: Any) -> Any:
    from tvm import relay

    shifted = relay.clip(relay.add(x, relay.const(3.0)), 0.0, 6.0)
    return relay.multiply(shifted, relay.const(1.0 / 6.0))


def _relu(x: Any) -> Any:
    from tvm import relay

    return relay.nn.relu(x)


def _hard_swish(x: Any) -> Any:
    from tvm import relay

    return relay.multiply(x, _hard_sigmoid(x))


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "": lambda x: x,
    "relu": _relu,
    "h_swish": _hard_swish,
    "h_sigmoid": _hard_sigmoid,
}
