"""Tasks as AutoTVM names them: which workloads share one, and reading them back from logs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ofatvm.compiler.plan import Workload
from ofatvm.relay.task import CONVOLUTION, DEPTHWISE, key_of, task_key, task_of
from ofatvm.spaces import find_space
from ofatvm.tuning.workloads import space_workloads


@pytest.mark.parametrize("space", ["small28", "mbv3w1.0"])
def test_a_task_is_read_back_from_its_log_line(space: str) -> None:
    for use in space_workloads(find_space(space), find_space(space).resolutions[-1]):
        if use.workload.is_compute:
            template, arguments = task_of(use.workload)
            assert key_of(template, json.loads(json.dumps(arguments))) == task_key(use.workload)


def test_fused_kernels_share_their_convolution() -> None:
    plain = Workload("pointwise", (7, 7, 64), (7, 7, 32))
    fused = Workload("pointwise", (7, 7, 64), (7, 7, 32), scaled=True, residual=True)
    assert task_key(plain) == task_key(fused) == "conv_c64x7x7_o32_k1s1"
    assert task_key(Workload("dense", (64,), (32,), activation="relu")) == "conv_c64x1x1_o32_k1s1"
    depthwise = Workload("depthwise", (7, 7, 64), (4, 4, 64), kernel=5, stride=2)
    assert task_key(depthwise) == "depthwise_c64x7x7_o64_k5s2"


def test_the_space_has_fewer_tasks_than_kernels() -> None:
    uses = [u for u in space_workloads(find_space("small28"), 28) if u.workload.is_compute]
    tasks = {task_key(use.workload) for use in uses}
    assert len(tasks) < 0.9 * len(uses)


def changed(place: int, value: Any) -> list[Any]:
    arguments = task_of(Workload("conv", (8, 8, 16), (8, 8, 24), kernel=3))[1]
    arguments[place] = value
    return arguments


@pytest.mark.parametrize(
    ("template", "arguments"),
    [
        ("conv2d_nchw_spatial_pack.arm_cpu", changed(2, [1, 1])),
        (CONVOLUTION, changed(0, ["TENSOR", [2, 16, 8, 8], "float32"])),
        (CONVOLUTION, changed(0, ["TENSOR", [1, 16, 8, 8], "int8"])),
        (CONVOLUTION, changed(1, ["TENSOR", [24, 16, 3, 5], "float32"])),
        (CONVOLUTION, changed(2, [1, 2])),
        (CONVOLUTION, changed(3, [0, 0, 0, 0])),
        (CONVOLUTION, changed(4, [2, 2])),
        (DEPTHWISE, changed(2, [1, 1])),
        (CONVOLUTION, []),
        (CONVOLUTION, "abcdefgh"),
        (CONVOLUTION, None),
        (CONVOLUTION, [[1], [2], 3, 4, 5]),
    ],
)
def test_tasks_of_others_have_no_key(template: str, arguments: Any) -> None:
    assert key_of(template, arguments) is None
