"""How channels are cut, and that packed weights are the same numbers in another order."""

from __future__ import annotations

import numpy as np
import pytest

from ofatvm.compiler.plan import Workload, kernel_calls
from ofatvm.graph import operator_graph
from ofatvm.relay.blocks import Blocking, argument_shapes, bias_shape, pack_weight, weight_shape
from ofatvm.spaces import find_space

AVX2 = Blocking(8, 8)


@pytest.mark.parametrize(
    ("channels", "block"),
    [(1, 1), (3, 3), (8, 8), (24, 8), (64, 8), (1000, 8), (10, 5), (12, 4), (7, 7), (17, 1)],
)
def test_channels_are_cut_into_whole_vectors_where_they_can_be(channels: int, block: int) -> None:
    assert AVX2.block(channels) == block


def test_wider_blocks_hold_several_vectors() -> None:
    wide = Blocking(4, 16)
    assert [wide.block(channels) for channels in (16, 24, 20, 6)] == [16, 12, 4, 6]


def test_channels_that_fill_no_whole_vector_fill_halves() -> None:
    wide = Blocking(16, 32)
    assert [wide.block(channels) for channels in (120, 40, 1000, 12, 96)] == [24, 8, 8, 12, 32]


@pytest.mark.parametrize("blocking", [AVX2, Blocking(4, 16), Blocking(16, 32)])
def test_every_tensor_has_one_cut_whoever_makes_or_reads_it(blocking: Blocking) -> None:
    for space in ("small28", "mbv3w1.0"):
        for call in kernel_calls(operator_graph(find_space(space).largest())):
            workload = call.workload
            shapes = argument_shapes(workload, blocking)
            assert shapes[0] == blocking.tensor(workload.in_shape)
            if workload.residual:
                assert shapes[-1] == blocking.tensor(workload.out_shape)
            assert int(np.prod(shapes[0])) == int(np.prod(workload.in_shape))


def test_a_picture_of_three_channels_lies_as_nhwc() -> None:
    assert AVX2.tensor((224, 224, 3)) == (1, 1, 224, 224, 3)


def test_a_packed_weight_is_the_weight_cut_along_both_channels() -> None:
    workload = Workload("conv", (8, 8, 16), (8, 8, 24), kernel=3)
    weight = np.random.default_rng(0).random((3, 3, 16, 24), dtype=np.float32)
    packed = pack_weight(weight, workload, AVX2)
    assert packed.shape == weight_shape(workload, AVX2) == (3, 2, 3, 3, 8, 8)
    for out, i, row, column in ((0, 0, 0, 0), (23, 15, 2, 1), (9, 8, 1, 2)):
        assert packed[out // 8, i // 8, row, column, i % 8, out % 8] == weight[row, column, i, out]


def test_depthwise_and_dense_weights_are_packed_too() -> None:
    depthwise = Workload("depthwise", (8, 8, 16), (4, 4, 16), kernel=5, stride=2)
    weight = np.random.default_rng(0).random((5, 5, 16), dtype=np.float32)
    packed = pack_weight(weight, depthwise, AVX2)
    assert packed.shape == (2, 1, 5, 5, 1, 8)
    assert packed[1, 0, 4, 2, 0, 3] == weight[4, 2, 11]
    dense = Workload("dense", (16,), (10,))
    matrix = np.random.default_rng(0).random((16, 10), dtype=np.float32)
    packed = pack_weight(matrix, dense, AVX2)
    assert packed.shape == (2, 2, 1, 1, 8, 5)
    assert packed[1, 0, 0, 0, 2, 4] == matrix[2, 9]
    assert bias_shape(dense, AVX2) == (1, 2, 1, 1, 5)
    assert weight_shape(Workload("mean", (4, 4, 16), (16,)), AVX2) is None
