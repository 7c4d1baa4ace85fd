"""A workload as TIR: one tensor expression per kind, the same for tuning and for shipping."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ofatvm.compiler.plan import Workload

if TYPE_CHECKING:
    from tvm import IRModule


Shape = tuple[int, ...]


def workload_module(workload: Workload, channels: int = 0) -> IRModule:
    """The unscheduled PrimFunc of a workload, as the only function `main` of a module.

    Arguments come in the order of `Workload.argument_shapes`, all float32. The weight is marked
    layout-free, so that a schedule may ask for it in another layout. It may have more `channels`
    than the output (filled with zeros), so that every vector is full; these are computed and left
    out.
    """
    import tvm
    from tvm import te

    shapes = list(workload.argument_shapes)
    x = te.placeholder(shapes.pop(0), name="x")
    arguments = [x]
    weight = bias = scale = residual = None
    if workload.weight_shape is not None:
        shape = shapes.pop(0)
        weight = te.placeholder((*shape[:-1], channels or shape[-1]), name="weight")
        arguments.append(weight)
        if workload.bias:
            bias = te.placeholder(shapes.pop(0), name="bias")
            arguments.append(bias)
    if workload.scaled:
        scale = te.placeholder(shapes.pop(0), name="scale")
        arguments.append(scale)
    if workload.residual:
        residual = te.placeholder(shapes.pop(0), name="residual")
        arguments.append(residual)
    if scale is not None:
        unscaled = x
        x = te.compute(unscaled.shape, lambda h, w, c: unscaled[h, w, c] * scale[c], name="scaled")
    computed = (*workload.out_shape[:-1], channels or workload.out_shape[-1])
    accumulated = _ACCUMULATE[workload.kind](workload, computed, x, weight)

    def epilogue(*index: Any) -> Any:
        value = accumulated(*index)
        if workload.kind == "mean":
            value = value * tvm.tirx.const(1.0 / _pixels(workload), "float32")
        if bias is not None:
            value = value + bias[index[-1]]
        value = _activate(value, workload.activation)
        return value if residual is None else value + residual(*index)

    out = te.compute(workload.out_shape, epilogue, name="out")
    function = te.create_prim_func([*arguments, out])
    function = function.with_attr("tirx.noalias", True)
    if weight is not None:
        function = function.with_attr("layout_free_buffers", [1])
    return tvm.IRModule({"main": function.with_attr("global_symbol", "main")})


def _pixels(workload: Workload) -> int:
    return workload.in_shape[0] * workload.in_shape[1]


def _activate(value: Any, activation: str) -> Any:
    import tvm
    from tvm import te

    def const(number: float) -> Any:
        return tvm.tirx.const(number, "float32")

    def clip(number: Any, high: float) -> Any:
        return te.min(te.max(number, const(0.0)), const(high))

    if activation == "relu":
        return te.max(value, const(0.0))
    if activation == "h_swish":
        return value * (clip(value + const(3.0), 6.0) * const(1.0 / 6.0))
    if activation == "h_sigmoid":
        return clip(value + const(3.0), 6.0) * const(1.0 / 6.0)
    return value


def _padded(workload: Workload, x: Any) -> Any:
    import tvm
    from tvm import te

    height, width, channels = workload.in_shape
    pad = workload.kernel // 2
    if pad == 0:
        return x

    def inside(h: Any, w: Any, c: Any) -> Any:
        rows = te.all(h >= pad, h < height + pad)
        columns = te.all(w >= pad, w < width + pad)
        return te.if_then_else(
            te.all(rows, columns), x[h - pad, w - pad, c], tvm.tirx.const(0.0, "float32")
        )

    return te.compute((height + 2 * pad, width + 2 * pad, channels), inside, name="pad")


def _conv(workload: Workload, shape: Shape, x: Any, weight: Any) -> Any:
    from tvm import te

    data, kernel, stride = _padded(workload, x), workload.kernel, workload.stride
    rh, rw = te.reduce_axis((0, kernel), name="rh"), te.reduce_axis((0, kernel), name="rw")
    rc = te.reduce_axis((0, workload.in_shape[-1]), name="rc")
    return te.compute(
        shape,
        lambda h, w, c: te.sum(
            data[h * stride + rh, w * stride + rw, rc] * weight[rh, rw, rc, c], axis=[rh, rw, rc]
        ),
        name="accumulate",
    )


def _depthwise(workload: Workload, shape: Shape, x: Any, weight: Any) -> Any:
    from tvm import te

    data, kernel, stride = _padded(workload, x), workload.kernel, workload.stride
    rh, rw = te.reduce_axis((0, kernel), name="rh"), te.reduce_axis((0, kernel), name="rw")
    return te.compute(
        shape,
        lambda h, w, c: te.sum(
            data[h * stride + rh, w * stride + rw, c] * weight[rh, rw, c], axis=[rh, rw]
        ),
        name="accumulate",
    )


def _pointwise(workload: Workload, shape: Shape, x: Any, weight: Any) -> Any:
    from tvm import te

    rc = te.reduce_axis((0, workload.in_shape[-1]), name="rc")
    return te.compute(
        shape,
        lambda h, w, c: te.sum(x[h, w, rc] * weight[rc, c], axis=rc),
        name="accumulate",
    )


def _dense(workload: Workload, shape: Shape, x: Any, weight: Any) -> Any:
    from tvm import te

    rc = te.reduce_axis((0, workload.in_shape[-1]), name="rc")
    return te.compute(shape, lambda c: te.sum(x[rc] * weight[rc, c], axis=rc), name="accumulate")


def _mean(workload: Workload, shape: Shape, x: Any, weight: None) -> Any:
    from tvm import te

    rh = te.reduce_axis((0, workload.in_shape[0]), name="rh")
    rw = te.reduce_axis((0, workload.in_shape[1]), name="rw")
    return te.compute(shape, lambda c: te.sum(x[rh, rw, c], axis=[rh, rw]), name="accumulate")


_ACCUMULATE = {
    "conv": _conv,
    "depthwise": _depthwise,
    "pointwise": _pointwise,
    "dense": _dense,
    "mean": _mean,
}
