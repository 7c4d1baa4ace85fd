from __future__ import annotations

import re

import numpy as np
import pytest

from ofatvm.arch import Arch, ArchSpace
from ofatvm.compiler.plan import KernelCall, Workload, kernel_calls
from ofatvm.graph import operator_graph, operators
from ofatvm.spaces import SPACES
from ofatvm.tuning.workloads import space_workloads

RESOLUTIONS = (128, 132, 148, 160, 188, 224)


def sampled() -> list[Arch]:
    rng = np.random.default_rng(5)
    archs = []
    for space in SPACES.values():
        archs += [space.largest(), space.smallest(space.resolutions[0])]
        archs += space.from_rows(space.sample_rows(rng, 12))
    return archs


@pytest.mark.parametrize("arch", sampled(), ids=str)
def test_every_operator_is_in_exactly_one_kernel(arch: Arch) -> None:
    graph = operator_graph(arch)
    calls = kernel_calls(graph)
    every = operators(graph)
    owners = [call.weights for call in calls if call.weights]
    assert len(owners) == len(set(owners))
    assert set(owners) == {name for name, op in every.items() if op.weight_shape is not None}
    for call in calls:
        assert call.workload.is_compute == bool(call.weights)
        if call.weights:
            operator = every[call.weights]
            assert call.workload.macs == operator.macs
            assert call.workload.weight_shape == operator.weight_shape
            assert call.workload.activation == operator.activation
            assert call.workload.stride == operator.stride
            assert call.workload.bias == (operator.batch_norm or operator.bias)
    assert sum(call.workload.macs for call in calls) == sum(op.macs for op in every.values())
    fused = sum(call.workload.scaled + call.workload.residual for call in calls)
    assert len(calls) + fused == len(every) - 1


@pytest.mark.parametrize("arch", sampled(), ids=str)
def test_calls_chain_from_the_input_to_the_classifier(arch: Arch) -> None:
    graph = operator_graph(arch)
    every = operators(graph)
    made = {"input": every["input"].out_shape[1:]}
    for call in kernel_calls(graph):
        assert call.output not in made
        assert [made[name] for name in call.inputs] == expected_inputs(call)
        assert call.workload.out_shape == every[call.output].out_shape[1:]
        made[call.output] = call.workload.out_shape
    assert call.output == "head.classifier"
    read = {name for call in kernel_calls(graph) for name in call.inputs}
    assert read == set(made) - {"head.classifier"}


def expected_inputs(call: KernelCall) -> list[tuple[int, ...]]:
    workload = call.workload
    shapes = [workload.in_shape]
    if workload.scaled:
        shapes.append((workload.in_shape[-1],))
    if workload.residual:
        shapes.append(workload.out_shape)
    return shapes


def test_the_residual_is_not_the_input_of_its_own_convolution() -> None:
    calls = kernel_calls(operator_graph(SPACES["ofa_mbv3_d234_e346_k357_w1.0"].smallest()))
    by_output = {call.output: call for call in calls}
    assert by_output["first.add"].inputs == ("first.depthwise", "stem")
    assert by_output["stage1.block2.add"].inputs == (
        "stage1.block2.depthwise",
        "stage1.block1.project",
    )
    assert by_output["stage2.block2.add"].inputs == (
        "stage2.block2.depthwise",
        "stage2.block2.se.expand",
        "stage2.block1.project",
    )


@pytest.mark.parametrize(
    ("space", "resolution"),
    [(s, r) for s in SPACES.values() for r in (*RESOLUTIONS, 20, 24, 28) if r in s.resolutions],
    ids=str,
)
def test_keys_are_unique_and_c_symbols(space: ArchSpace, resolution: int) -> None:
    workloads = [use.workload for use in space_workloads(space, resolution)]
    keys = {workload.key for workload in workloads}
    assert len(keys) == len(workloads) == len(set(workloads))
    assert all(re.fullmatch(r"[a-z_][a-z0-9_]*", key) for key in keys)


def test_keys_are_unique_over_all_spaces_and_resolutions() -> None:
    every = {
        use.workload
        for space in SPACES.values()
        for resolution in space.resolutions
        for use in space_workloads(space, resolution)
    }
    assert len({workload.key for workload in every}) == len(every)


@pytest.mark.parametrize(
    ("workload", "key"),
    [
        (
            Workload("conv", (224, 224, 3), (112, 112, 16), 3, 2, "h_swish"),
            "conv_k3s2_224x224x3_16_hswish",
        ),
        (
            Workload("depthwise", (28, 28, 240), (14, 14, 240), 7, 2, "relu"),
            "depthwise_k7s2_28x28x240_relu",
        ),
        (
            Workload("pointwise", (14, 14, 448), (14, 14, 112), scaled=True, residual=True),
            "pointwise_14x14x448_112_scaled_residual",
        ),
        (Workload("dense", (960,), (1280,), activation="h_swish", bias=False),
         "dense_960_1280_hswish_nobias"),
        (Workload("mean", (7, 7, 960), (960,), bias=False), "mean_7x7x960"),
    ],
)  # fmt: skip
def test_keys_are_what_tuning_records_are_filed_under(workload: Workload, key: str) -> None:
    assert workload.key == key


def test_argument_shapes_stand_in_the_kernels_order() -> None:
    workload = Workload("pointwise", (14, 14, 448), (14, 14, 112), scaled=True, residual=True)
    assert workload.argument_shapes == (
        (14, 14, 448),
        (448, 112),
        (112,),
        (448,),
        (14, 14, 112),
        (14, 14, 112),
    )
    mean = Workload("mean", (7, 7, 960), (960,), bias=False)
    assert mean.argument_shapes == ((7, 7, 960), (960,))
    assert (mean.macs, mean.weight_shape, mean.is_compute) == (0, None, False)
