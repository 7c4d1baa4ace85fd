"""The operator graph's figures hold to the unit, and its shapes agree with each other."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofatvm.arch import Arch
from ofatvm.graph import operator_graph, operators, peak_memory_bytes, totals
from ofatvm.spaces import find_space, parse_arch

W10 = find_space("mbv3w1.0")

# Architectures whose MACs and parameters others have logged (OFA JSON, 224x224).
KNOWN = [
    (
        {
            "ks": [5, 7, 5, 5, 3, 3, 3, 7, 5, 5, 3, 7, 7, 3, 3, 3, 5, 5, 5, 5],
            "e": [4, 3, 4, 4, 4, 6, 3, 4, 4, 3, 4, 3, 3, 6, 6, 6, 4, 3, 4, 4],
            "d": [2, 3, 2, 4, 3],
        },
        255_502_624,
        5_029_656,
    ),
    (
        {
            "ks": [7, 3, 3, 7, 5, 3, 3, 3, 7, 3, 7, 7, 7, 3, 7, 5, 3, 3, 3, 3],
            "e": [3, 6, 6, 3, 6, 3, 6, 6, 6, 6, 4, 3, 4, 6, 4, 3, 3, 6, 4, 4],
            "d": [3, 2, 2, 3, 2],
        },
        244_945_104,
        4_536_768,
    ),
    # The next three are the first rows of the table that DyNAS-T's notebooks hold (Apache-2.0).
    (
        {
            "ks": [5, 5, 0, 0, 7, 7, 5, 0, 5, 5, 3, 0, 5, 3, 5, 7, 3, 3, 0, 0],
            "e": [3, 4, 0, 0, 4, 4, 4, 0, 4, 3, 6, 0, 3, 3, 4, 4, 3, 4, 0, 0],
            "d": [2, 3, 3, 4, 2],
        },
        228_096_016,
        4_148_784,
    ),
    (
        {
            "ks": [5, 3, 7, 0, 5, 5, 7, 0, 5, 3, 0, 0, 7, 5, 5, 0, 5, 7, 7, 0],
            "e": [4, 3, 3, 0, 4, 3, 3, 0, 3, 3, 0, 0, 4, 3, 4, 0, 4, 4, 4, 0],
            "d": [3, 3, 2, 3, 3],
        },
        217_395_872,
        4_415_648,
    ),
    (
        {
            "ks": [3, 7, 5, 0, 5, 7, 5, 0, 5, 3, 5, 0, 3, 5, 3, 0, 7, 7, 5, 0],
            "e": [6, 4, 6, 0, 6, 4, 4, 0, 4, 3, 4, 0, 4, 4, 3, 0, 6, 3, 4, 0],
            "d": [3, 3, 3, 3, 3],
        },
        278_975_616,
        4_549_752,
    ),
]


@pytest.mark.parametrize(("ofa", "macs", "params"), KNOWN)
def test_logged_figures_hold_to_the_unit(ofa: dict[str, list[int]], macs: int, params: int) -> None:
    figures = totals(operator_graph(parse_arch(json.dumps(ofa))))
    assert (figures.macs, figures.params) == (macs, params)


def test_every_row_of_the_table_holds_to_the_unit(imagenet_rows: Path) -> None:
    with imagenet_rows.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 1912
    for row in rows:
        kernels, expands, depths = (
            [int(word) for word in row[name].split()] for name in ("kernel", "expand", "depth")
        )
        figures = totals(operator_graph(W10.arch(kernels, expands, depths, 224)))
        assert (figures.macs, figures.params) == (int(row["macs"]), int(row["params"])), row


def test_the_range_of_the_space() -> None:
    small = totals(operator_graph(W10.smallest()))
    large = totals(operator_graph(W10.largest()))
    assert round(small.macs / 1e6, 1) == 121.3
    assert round(small.params / 1e6, 2) == 3.41
    assert round(large.macs / 1e6, 1) == 566.2
    assert round(large.params / 1e6, 2) == 7.66
    middle = W10.uniform(kernel=3, expand=3, depth=4)
    assert round(totals(operator_graph(middle)).macs / 1e6, 1) == 226.2


def random_arch(seed: int) -> Arch:
    return W10.sample(np.random.default_rng(seed))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_shapes_agree_along_every_edge(seed: int) -> None:
    graph = operator_graph(random_arch(seed))
    assert nx.is_directed_acyclic_graph(graph)
    every = operators(graph)
    order = list(every)
    for source, name, shape in graph.edges(data="shape"):
        assert order.index(source) < order.index(name)
        assert shape == every[source].out_shape
    for name, operator in every.items():
        sources = list(graph.predecessors(name))
        assert len(sources) == {"input": 0, "add": 2, "scale": 2}.get(operator.kind, 1)
        if operator.kind == "add":
            assert {every[source].out_shape for source in sources} == {operator.out_shape}
        if sources:
            assert operator.in_shape == every[sources[0]].out_shape
    assert every["head.classifier"].out_shape == (1, 1000)
    assert [name for name in graph if graph.out_degree(name) == 0] == ["head.classifier"]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_resolution_changes_work_but_not_weights(seed: int) -> None:
    arch = random_arch(seed)
    small, large = (totals(operator_graph(arch, resolution)) for resolution in (128, 224))
    assert small.params == large.params
    assert small.weight_bytes == large.weight_bytes
    assert small.macs < large.macs
    assert small.peak_memory_bytes < large.peak_memory_bytes


def test_weight_bytes_are_what_folded_weights_take() -> None:
    graph = operator_graph(W10.smallest())
    expected = 0
    for operator in operators(graph).values():
        if operator.weight_shape:
            bias = operator.batch_norm or operator.bias
            expected += 4 * (int(np.prod(operator.weight_shape)) + bias * operator.out_shape[-1])
    assert totals(graph).weight_bytes == expected


def test_peak_memory_counts_live_tensors_only() -> None:
    chain: nx.DiGraph[str] = operator_graph(W10.smallest())
    every = operators(chain)
    largest_pair = max(
        every[a].out_bytes + every[b].out_bytes for a, b in chain.edges if every[b].kind != "add"
    )
    assert peak_memory_bytes(chain) >= largest_pair
    assert peak_memory_bytes(chain) < sum(operator.out_bytes for operator in every.values())


def test_names_are_stable() -> None:
    names = list(operator_graph(W10.smallest()))
    assert names[:5] == ["input", "stem", "first.depthwise", "first.project", "first.add"]
    assert names[-4:] == ["head.expand", "head.mean", "head.feature", "head.classifier"]
    assert "stage2.block1.se.reduce" in names
    assert "stage1.block1.se.reduce" not in names
    assert "stage1.block1.add" not in names
    assert "stage1.block2.add" in names
