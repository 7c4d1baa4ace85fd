"""The points of a template's space for one task, and which of them to try next."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ofatvm.relay.blocks import Config
from ofatvm.relay.task import DEPTHWISE

CUT = ("tile_ic", "tile_oc")
"""The entities that say how channels are cut, which is one decision for all of a network."""


@dataclass(frozen=True, slots=True)
class Space:
    """A task's points that cut channels alike: each config with its index in the whole space.

    `default` is what the template does without a config, which need not be one of its points.
    `target` is the target's text and `version` TVM's, as AutoTVM's log lines name them.
    """

    points: tuple[tuple[int, Config], ...]
    default: Config
    target: str
    version: str

    @property
    def configs(self) -> tuple[Config, ...]:
        """The default and all points."""
        return tuple(dict.fromkeys([self.default, *(config for _, config in self.points)]))


def space_of(
    template: str, arguments: Any, target: Mapping[str, Any], cut: Mapping[str, int]
) -> Space:
    """All points of a task whose channels are cut as `cut` says, by the names in `CUT`."""
    import tvm

    with task_in(template, arguments, target, {}) as task:
        whole = {
            name: list(choices.entities) for name, choices in task.config_space.space_map.items()
        }
    with task_in(template, arguments, target, cut) as task:
        space = task.config_space
        points = [space.get(i) for i in range(space.range_length)]
        indexed = tuple((_index(point, whole), _text(point)) for point in points)
        default = _default(template, arguments, task.target, cut)
        return Space(indexed, default, str(task.target), tvm.__version__)


def next_points(
    template: str,
    arguments: Any,
    target: Mapping[str, Any],
    cut: Mapping[str, int],
    known: Sequence[tuple[Config, float]],
    count: int,
    seed: int,
) -> list[Config]:
    """What AutoTVM's XGBTuner tries next after the `known` configs, given with their seconds.

    With none known it draws at random.
    """
    import random

    import numpy as np
    from tvm.autotvm import MeasureInput, MeasureResult
    from tvm.autotvm.task.space import ConfigEntity
    from tvm.autotvm.tuner import XGBTuner

    random.seed(seed)
    np.random.seed(seed % 2**32)  # all that it takes
    with task_in(template, arguments, target, cut) as task:
        places = {_text(task.config_space.get(i)): i for i in range(task.config_space.range_length)}
        inputs, results = [], []
        for config, seconds in known:
            if config not in places:
                continue
            entity = ConfigEntity.from_json_dict(
                {"index": places[config], "code_hash": None, "entity": json.loads(config)}
            )
            inputs.append(MeasureInput(task.target, task, entity))
            results.append(MeasureResult((seconds,), 0, seconds, 0.0))
        # It fits its model to what is known from `plan_size` trials on.
        learns_from = min(count, len(inputs)) or count
        tuner = XGBTuner(task, plan_size=learns_from, feature_type="knob", loss_type="reg")
        if inputs:
            tuner.update(inputs, results)
        return [_text(point) for point in tuner.next_batch(count)]


@contextmanager
def task_in(
    template: str, arguments: Any, target: Mapping[str, Any], cut: Mapping[str, int]
) -> Iterator[Any]:
    """AutoTVM's task, in whose space `cut` decides how channels are cut, if it says so."""
    import tvm
    from tvm import autotvm, topi  # noqa: F401  topi registers the templates

    task = autotvm.task.create(template, _tuples(arguments), tvm.target.Target(dict(target)))
    for name, size in cut.items():
        choices = task.config_space.space_map[name]
        choices.entities = [entity for entity in choices.entities if entity.size[-1] == size]
        assert choices.entities, f"{template} cannot cut {name} into {size}"
    # Both were counted with all entities.
    task.config_space._range_length = task.config_space._dims = None
    yield task


def _default(template: str, arguments: Any, target: Any, cut: Mapping[str, int]) -> Config:
    """What the template chooses where it has no config, with channels cut as `cut` says."""
    from tvm import te
    from tvm.autotvm.task.space import FallbackConfigEntity, OtherOptionEntity
    from tvm.topi.x86.conv2d import _get_default_config

    (_, data, dtype), (_, weight, _), strides, padding, dilation, *_ = arguments
    chosen = FallbackConfigEntity()
    with target:
        _get_default_config(
            chosen,
            te.placeholder(data, dtype=dtype),
            te.placeholder(weight, dtype=dtype),
            strides,
            padding,
            dilation,
            dtype,
            is_depthwise=template == DEPTHWISE,
        )
    entity: list[list[Any]] = [
        [name, "ot", value.val]
        if isinstance(value, OtherOptionEntity)
        else [name, "sp", [-1, cut.get(name, value.size[-1])]]
        for name, value in chosen._entity_map.items()
    ]
    order = [*CUT, "tile_ow"]  # as in the spaces' own texts
    entity.sort(key=lambda item: order.index(item[0]) if item[0] in order else len(order))
    return json.dumps(entity)


def _index(point: Any, whole: Mapping[str, Sequence[Any]]) -> int:
    """A point's index in the whole space, whose first entity turns fastest."""
    index, stride = 0, 1
    for name, choices in whole.items():
        index += stride * [str(choice) for choice in choices].index(str(point[name]))
        stride *= len(choices)
    return index


def _text(point: Any) -> Config:
    return json.dumps(point.to_json_dict()["entity"])


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
