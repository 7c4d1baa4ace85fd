"""Relay's kernels as plain C functions, which programs of ofatvm's own call: for the simulator.

A kernel is a run of phases. Each was one parallel loop, or code outside of any, and computes part
`task` of `tasks` of it; what phases hand to each other lies in buffers that the caller gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofatvm.files import scratch
from ofatvm.relay.blocks import Blocking
from ofatvm.relay.build import KernelJob, chosen, passes
from ofatvm.relay.dispatch import quiet
from ofatvm.relay.expr import workload_module

FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Phase:
    """One function: its arguments are places in the kernel's list of tensors."""

    symbol: str
    parallel: bool
    arguments: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlainKernel:
    """A kernel's phases over its tensors: arguments first, then the output, then buffers.

    `buffers` are the sizes of the last, in numbers.
    """

    phases: tuple[Phase, ...]
    buffers: tuple[int, ...]


def compile_objects(
    jobs: Sequence[KernelJob], target: Mapping[str, Any], blocking: Blocking
) -> list[PlainKernel]:
    """Write each kernel's object file at `path`; what it consists of."""
    return [_compile(job, target, blocking) for job in jobs]


def _compile(job: KernelJob, target: Mapping[str, Any], blocking: Blocking) -> PlainKernel:
    import tvm
    from tvm import relay
    from tvm.relay.backend import te_compiler

    quiet()
    built_for = tvm.target.Target(dict(target), host=dict(target))
    module = workload_module(job.workload, blocking)
    functions: dict[Any, Any] = {}
    phases: list[Phase] = []
    sizes: list[int] = []
    with chosen([job.workload], [job.config], blocking), passes(), built_for:
        optimised, _ = relay.optimize(module, target=built_for)
        main = optimised["main"]
        places = {parameter: place for place, parameter in enumerate(main.params)}
        calls = _calls(main.body)
        for number, call in enumerate(calls):
            te_compiler.get().clear()
            lowered = te_compiler.get().lower(call.op, built_for)
            (function,) = lowered.funcs.functions.values()
            last = number + 1 == len(calls)
            if last:
                places[call] = len(main.params)
            else:
                places[call] = len(main.params) + 1 + len(sizes)
                sizes.append(_count(call.checked_type.shape))
            tensors = [*(places[argument] for argument in call.args), places[call]]
            made, plain = _phases(
                function, f"{job.symbol}_{number}", tensors, len(main.params) + 1, sizes
            )
            phases += made
            functions |= plain
    module = tvm.IRModule(
        {name: function.with_attr("target", built_for) for name, function in functions.items()}
    )
    module = tvm.tir.transform.LowerIntrin()(module)
    code = tvm.get_global_func("target.build.llvm")(module, built_for)
    path = Path(job.path)
    # Half an object must not be taken for a whole one, should this process be killed.
    with scratch("kernel", path.parent) as room:
        code.save(str(room / path.name), "o")
        (room / path.name).replace(path)
    return PlainKernel(tuple(phases), tuple(sizes))


def _calls(body: Any) -> list[Any]:
    """The calls of primitive functions, in order."""
    from tvm import relay

    found: list[Any] = []

    def visit(expression: Any) -> None:
        if isinstance(expression, relay.Call) and isinstance(expression.op, relay.Function):
            found.append(expression)

    relay.analysis.post_order_visit(body, visit)
    return found


def _phases(
    function: Any, symbol: str, tensors: Sequence[int], first_buffer: int, sizes: list[int]
) -> tuple[list[Phase], dict[str, Any]]:
    """Cut a lowered function into its phases; appends the sizes of its own buffers."""
    from tvm import tir

    pointers = [function.buffer_map[parameter].data for parameter in function.params]
    places = dict(zip(pointers, tensors, strict=True))
    parts: list[tuple[Any, bool]] = []

    def split(statement: Any) -> None:
        if isinstance(statement, tir.Allocate):
            size = 1
            for extent in statement.extents:
                size *= int(extent)
            places[statement.buffer_var] = first_buffer + len(sizes)
            lanes = statement.dtype.partition("x")[2] or 1
            sizes.append(size * int(lanes))
            split(statement.body)
        elif isinstance(statement, tir.SeqStmt):
            for child in statement.seq:
                split(child)
        elif isinstance(statement, (tir.DeclBuffer, tir.AttrStmt)):
            split(statement.body)
        else:
            parallel = isinstance(statement, tir.For) and statement.kind == tir.ForKind.PARALLEL
            parts.append((statement, parallel))

    split(function.body)
    phases, functions = [], {}
    for number, (statement, parallel) in enumerate(parts):
        name = f"{symbol}_{number}"
        used = _used(statement, list(places))
        functions[name] = _plain(statement, name, used, parallel=parallel)
        phases.append(Phase(name, parallel, tuple(places[pointer] for pointer in used)))
    return phases, functions


def _used(statement: Any, pointers: Sequence[Any]) -> list[Any]:
    from tvm import tir

    found: set[Any] = set()

    def visit(node: Any) -> None:
        if isinstance(node, (tir.BufferLoad, tir.BufferStore)):
            found.add(node.buffer.data)
        elif isinstance(node, tir.Var):
            found.add(node)

    tir.stmt_functor.post_order_visit(statement, visit)
    return [pointer for pointer in pointers if any(pointer.same_as(other) for other in found)]


def _plain(statement: Any, name: str, pointers: Sequence[Any], *, parallel: bool) -> Any:
    from tvm import tir

    task, tasks = tir.Var("task", "int32"), tir.Var("tasks", "int32")
    body = statement
    if parallel:
        # Neither can be negative, and floor division would be lowered to code for that.
        first = tir.truncdiv(task * statement.extent, tasks)
        end = tir.truncdiv((task + 1) * statement.extent, tasks)
        # Code is generated for loops from 0 alone.
        index = tir.Var(statement.loop_var.name, statement.loop_var.dtype)
        shifted = tir.stmt_functor.substitute(statement.body, {statement.loop_var: index + first})
        body = tir.For(index, 0, end - first, tir.ForKind.SERIAL, shifted)
    function = tir.PrimFunc([task, tasks, *pointers], body)
    return (
        function.with_attr("global_symbol", name)
        .with_attr("tir.noalias", True)
        .with_attr("calling_conv", 0)
    )


def _count(shape: Any) -> int:
    size = 1
    for extent in shape:
        size *= int(extent)
    return size
