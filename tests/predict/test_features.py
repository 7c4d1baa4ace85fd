import numpy as np
import pytest

from ofatvm.arch import ArchSpace, StageSpec
from ofatvm.errors import ArchError
from ofatvm.graph import operator_graph, operators, totals
from ofatvm.predict.features import FUSED_KINDS, SpaceTables, feature_names, features
from ofatvm.spaces import OFA_SPACE, SPACES

SPACE = SPACES[OFA_SPACE]
TOY = ArchSpace(
    name="toy",
    code="toy",
    stem_width=8,
    first_width=12,
    stages=(StageSpec(16, 2, "relu", False), StageSpec(24, 1, "h_swish", True)),
    head_width=32,
    feature_width=40,
    classes=10,
    resolutions=(16, 28),
    kernels=(3, 5),
    expands=(2, 9),
    depths=(1, 2, 3),
)


@pytest.mark.parametrize("space", [*SPACES.values(), TOY], ids=lambda space: space.code)
def test_tables_agree_with_the_operator_graph_of_every_architecture(space):
    space = space.at(space.resolutions[0], space.resolutions[-1])
    tables = SpaceTables.build(space)
    rows = space.sample_rows(np.random.default_rng(1), 60)
    archs = space.from_rows(rows)
    archs += [space.smallest(), space.largest(), space.smallest(space.resolutions[0])]
    rows = space.to_rows(archs)
    exact = [totals(operator_graph(arch)) for arch in archs]
    assert tables.macs(rows).tolist() == [total.macs for total in exact]
    assert tables.params(rows).tolist() == [total.params for total in exact]
    assert tables.weight_bytes(rows).tolist() == [total.weight_bytes for total in exact]
    assert tables.peak_memory_bytes(rows).tolist() == [t.peak_memory_bytes for t in exact]


def test_additive_sums_any_figure_of_the_nodes():
    def values(graph):
        return {
            name: 0.001 * operator.kernel + operator.out_bytes
            for name, operator in operators(graph).items()
            if operator.kind not in FUSED_KINDS
        }

    space = SPACE.at(160, 224)
    rows = space.sample_rows(np.random.default_rng(2), 40)
    summed = SpaceTables.build(space).additive(values)(rows)
    exact = [sum(values(operator_graph(arch)).values()) for arch in space.from_rows(rows)]
    np.testing.assert_allclose(summed, exact, rtol=1e-12)


def test_additive_refuses_values_of_unknown_nodes():
    with pytest.raises(ArchError, match="no_such_node"):
        SpaceTables.build(TOY).additive(lambda graph: {"no_such_node": 1.0})


def test_kernel_counts_leave_out_what_is_fused():
    arch = SPACE.largest(224)
    every = operators(operator_graph(arch)).values()
    tables = SpaceTables.build(SPACE, 224)
    count = sum(operator.kind not in FUSED_KINDS for operator in every)
    assert tables.kernels(SPACE.to_rows([arch])).tolist() == [count]


def test_features_have_a_name_each_and_tell_every_choice():
    tables = SpaceTables.build(SPACE, 224)
    rows = SPACE.at(224).sample_rows(np.random.default_rng(3), 50)
    table = features(rows, tables)
    names = feature_names(SPACE)
    assert table.dtype == np.float32
    assert table.shape == (50, len(names))
    assert len(set(names)) == len(names)
    assert (table[:, : SPACE.row_width] == rows).all()
    np.testing.assert_allclose(table[:, names.index("macs")], tables.macs(rows), rtol=1e-6)
    stages = [table[:, names.index(f"macs.stage{s}")] for s in range(1, 6)]
    assert (sum(stages) < table[:, names.index("macs")]).all()


def test_no_rows_give_no_features():
    tables = SpaceTables.build(TOY)
    empty = np.empty((0, TOY.row_width), dtype=np.int32)
    assert features(empty, tables).shape == (0, len(feature_names(TOY)))
    assert tables.macs(empty).shape == (0,)
    assert tables.peak_memory_bytes(empty).shape == (0,)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, 4, "not canonical"),
        (0, 0, "not canonical"),
        (0, -3, "not canonical"),
        (0, 77, "not canonical"),
        (20, 5, "not canonical"),
        (40, 3, "not canonical"),
        (-1, 192, "resolution 192"),
        (-1, 999, "resolution 999"),
    ],
)
def test_rows_that_are_no_architecture_of_the_tables_are_refused(column, value, message):
    tables = SpaceTables.build(SPACE, 128, 224)
    rows = SPACE.to_rows([SPACE.smallest()])
    rows[0, column] = value
    with pytest.raises(ArchError, match=message):
        tables.macs(rows)


def test_rows_of_another_width_are_refused():
    with pytest.raises(ArchError, match=r"\(n, 46\)"):
        SpaceTables.build(SPACE, 224).macs(TOY.to_rows([TOY.smallest()]))
