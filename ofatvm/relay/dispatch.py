"""Which point of a template's space is used: what ofatvm chose, or the template's default."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ofatvm.compiler.plan import Workload
from ofatvm.relay.blocks import Blocking, Config, argument_shapes

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def shapes_key(workload: Workload, blocking: Blocking) -> Shapes:
    """What tells a template's calls in a network apart: shapes of input and weight, and stride."""
    x, weight, *_ = argument_shapes(workload, blocking)
    return x, weight, (workload.stride, workload.stride)


@contextmanager
def configured(configs: Mapping[Shapes, Config]) -> Iterator[None]:
    """Compile with these configs; a template's own default where there is none."""
    from tvm import autotvm
    from tvm.autotvm.task.dispatcher import DispatchContext
    from tvm.autotvm.task.space import ConfigEntity, FallbackConfigEntity

    defaults: dict[Shapes, Any] = {}

    class Chosen(DispatchContext):  # type: ignore[misc]
        def _query_inside(self, target: Any, workload: Any) -> Any:
            name, data, weight, strides, *_ = workload
            del name, target
            key = tuple(data[1]), tuple(weight[1]), tuple(strides)
            text = configs.get(key, "")
            if not text:
                # The template fills it in when it computes, and reads it when it schedules.
                return defaults.setdefault(key, FallbackConfigEntity())
            return ConfigEntity.from_json_dict(
                {"index": 0, "code_hash": None, "entity": json.loads(text)}
            )

        def update(self, target: Any, workload: Any, cfg: Any) -> None:
            pass

    quiet()
    autotvm.GLOBAL_SCOPE.silent = True
    with Chosen():
        yield


@functools.cache
def quiet() -> None:
    """No advice on tuning at every build, and no list of build options made for every operator."""
    import logging

    from tvm.relay.backend import te_compiler

    # It is asked for at every shape, and takes a third of a small kernel's compilation.
    te_compiler.libinfo = functools.cache(te_compiler.libinfo)
    for name in ("autotvm", "te_compiler", "strategy"):
        logging.getLogger(name).setLevel(logging.ERROR)
