"""What is known of whole populations without measuring: tables per block, and features.

Every operator of an elastic block depends only on its place, kernel size, expand ratio and the
input resolution. A few operator graphs therefore give the figures of every architecture: the
fixed part plus one table entry per block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import networkx as nx
import numpy as np

from ofatvm.arch import ArchSpace
from ofatvm.errors import ArchError
from ofatvm.graph import Operator, operator_graph, operators, peak_memory_bytes

FUSED_KINDS = ("input", "scale", "add")
"""Operators that are no kernel of their own."""

_DIGITS = 10  # kernels and expands are single digits
_CHUNK = 1024  # rows whose gathered features stay in the cache


@dataclass(frozen=True, slots=True, eq=False)
class BlockTable:
    """A figure, or a vector of them, that adds up over the blocks of an architecture.

    `fixed` is (resolutions, f); `blocks` is (resolutions * blocks * states, f), where state 0 is a
    skipped block and the others are kernel and expand choices. Calling it with rows
    (n, row_width) gives float64 (n,).
    """

    tables: SpaceTables
    fixed: np.ndarray
    blocks: np.ndarray

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """The figure of every row, (n,); the first one when there are several."""
        where, resolution = self.tables.locate(rows)
        return np.take(self.fixed[:, 0], resolution) + np.take(self.blocks[:, 0], where).sum(1)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """All figures of every row, (n, f)."""
        where, resolution = self.tables.locate(rows)
        result = self.fixed[resolution]
        for start in range(0, len(rows), _CHUNK):
            part = result[start : start + _CHUNK]
            for block in range(where.shape[1]):
                part += np.take(self.blocks, where[start : start + _CHUNK, block], axis=0)
        return result


@dataclass(frozen=True, slots=True, eq=False)
class SpaceTables:
    """Exact figures of all architectures of `space` at some resolutions, by table look-up.

    Rows are the array form of `ArchSpace.to_rows`, (n, row_width), and must be canonical.
    """

    space: ArchSpace
    resolutions: tuple[int, ...]
    graphs: tuple[tuple[nx.DiGraph[str], ...], ...] = field(repr=False)
    _totals: BlockTable = field(init=False, repr=False)
    _features: BlockTable = field(init=False, repr=False)
    _peaks: BlockTable = field(init=False, repr=False)

    @classmethod
    def build(cls, space: ArchSpace, *resolutions: int) -> SpaceTables:
        """Tables of `space` at `resolutions`, by default all it has."""
        chosen = space.at(*resolutions).resolutions if resolutions else space.resolutions
        graphs = tuple(
            tuple(
                operator_graph(
                    space.uniform(kernel=k, expand=e, depth=space.max_depth, resolution=resolution)
                )
                for k in space.kernels
                for e in space.expands
            )
            for resolution in chosen
        )
        return cls(space, chosen, graphs)

    def __post_init__(self) -> None:
        """Fill the tables from the graphs."""
        object.__setattr__(self, "_totals", self._tabulate(_total_vectors, 3))
        object.__setattr__(
            self,
            "_features",
            self._tabulate(
                lambda graph: _feature_vectors(graph, self.space), len(_sum_names(self.space))
            ),
        )
        object.__setattr__(self, "_peaks", self._peak_table())

    def additive(self, values: Callable[[nx.DiGraph[str]], dict[str, float]]) -> BlockTable:
        """Sum a figure of every node over whole populations, by look-up.

        `values` gets the operator graph of a net with one choice everywhere and returns
        {node name: value}; nodes left out count as 0. It must give equal operators equal values.
        """

        def vectors(graph: nx.DiGraph[str]) -> dict[str, Sequence[float]]:
            given = values(graph)
            unknown = sorted(set(given) - set(graph))
            if unknown:
                raise ArchError(f"values for nodes that the graph does not have: {unknown}")
            return {name: (value,) for name, value in given.items()}

        return self._tabulate(vectors, 1)

    def macs(self, rows: np.ndarray) -> np.ndarray:
        """Multiply-accumulates, (n,) int64."""
        return self.totals(rows)[:, 0]

    def macs_table(self) -> BlockTable:
        """MACs as a table, for shares of blocks where no kernel times are known."""
        totals = self._totals
        return BlockTable(self, totals.fixed[:, :1].copy(), totals.blocks[:, :1].copy())

    def kernels(self, rows: np.ndarray) -> np.ndarray:
        """Number of kernels that run, (n,) int64."""
        column = _sum_names(self.space).index("kernels")
        return self.sums(rows)[:, column].astype(np.int64)

    def params(self, rows: np.ndarray) -> np.ndarray:
        """Trainable parameters, (n,) int64."""
        return self.totals(rows)[:, 1]

    def weight_bytes(self, rows: np.ndarray) -> np.ndarray:
        """Bytes of compiled weights, (n,) int64."""
        return self.totals(rows)[:, 2]

    def totals(self, rows: np.ndarray) -> np.ndarray:
        """MACs, parameters and weight bytes, (n, 3) int64."""
        return self._totals.vectors(rows).astype(np.int64)

    def peak_memory_bytes(self, rows: np.ndarray) -> np.ndarray:
        """Largest sum of live activations, (n,) int64."""
        where, resolution = self.locate(rows)
        blocks = np.take(self._peaks.blocks[:, 0], where).max(axis=1)
        return np.maximum(blocks, self._peaks.fixed[resolution, 0]).astype(np.int64)

    def sums(self, rows: np.ndarray) -> np.ndarray:
        """The additive features, (n, len(sum names)) float64; see `feature_names`."""
        return self._features.vectors(rows)

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Table indices: of every block (n, blocks), and of the resolution (n,).

        Rows that are not canonical, or of another space or resolution, are an ArchError.
        """
        space, blocks = self.space, self.space.blocks
        if rows.ndim != 2 or rows.shape[1] != space.row_width:
            raise ArchError(
                f"rows of {space.name} must be (n, {space.row_width}), got {rows.shape}"
            )
        kernels, expands = rows[:, :blocks], rows[:, blocks : 2 * blocks]
        known = np.full(_DIGITS * _DIGITS, -1, dtype=np.int64)
        known[0] = 0
        for i, k in enumerate(space.kernels):
            for j, e in enumerate(space.expands):
                known[_DIGITS * k + e] = i * len(space.expands) + j + 1
        digits = rows[:, : 2 * blocks]
        bad = bool(len(rows)) and (int(digits.min()) < 0 or int(digits.max()) >= _DIGITS)
        states = known[np.zeros(1, np.int64) if bad else _DIGITS * kernels + expands]
        depths = rows[:, 2 * blocks : -1]
        used = (np.arange(space.max_depth) < depths[:, :, None]).reshape(len(rows), blocks)
        if bad or (states < 0).any() or ((states > 0) != used).any():
            raise ArchError(f"rows are not canonical architectures of {space.name}")
        chosen = np.asarray(self.resolutions)
        resolution = np.minimum(np.searchsorted(chosen, rows[:, -1]), len(chosen) - 1)
        if (chosen[resolution] != rows[:, -1]).any():
            other = sorted(set(rows[:, -1].tolist()) - set(self.resolutions))[0]
            raise ArchError(
                f"there are no tables for resolution {other}",
                hint=f"tables were made for {', '.join(map(str, self.resolutions))}",
            )
        per_block = len(space.kernels) * len(space.expands) + 1
        first = (resolution[:, None] * blocks + np.arange(blocks)) * per_block
        return first + states, resolution

    def _tabulate(
        self, vectors: Callable[[nx.DiGraph[str]], dict[str, Sequence[float]]], width: int
    ) -> BlockTable:
        states = len(self.graphs[0]) + 1
        fixed = np.zeros((len(self.resolutions), width))
        blocks = np.zeros((len(self.resolutions), self.space.blocks, states, width))
        for r, state, graph in self._states():
            given = vectors(graph)
            for name, value in given.items():
                block = block_index(self.space, name)
                if block is not None:
                    blocks[r, block, state] += value
                elif state == 1:
                    fixed[r] += value
        return BlockTable(self, fixed, blocks.reshape(-1, width))

    def _peak_table(self) -> BlockTable:
        """Only one tensor crosses from block to block, so the blocks' peaks are independent."""
        states = len(self.graphs[0]) + 1
        fixed = np.zeros((len(self.resolutions), 1))
        blocks = np.zeros((len(self.resolutions), self.space.blocks, states))
        for r, state, graph in self._states():
            for block, segment in _segments(self.space, graph):
                peak = peak_memory_bytes(segment)
                if block is not None:
                    blocks[r, block, state] = peak
                else:
                    fixed[r] = max(fixed[r, 0], peak)
        return BlockTable(self, fixed, blocks.reshape(-1, 1))

    def _states(self) -> Iterator[tuple[int, int, nx.DiGraph[str]]]:
        for r, graphs in enumerate(self.graphs):
            for state, graph in enumerate(graphs, start=1):
                yield r, state, graph


def feature_names(space: ArchSpace) -> tuple[str, ...]:
    """Names of the columns of `features`."""
    places = [
        f"stage{i // space.max_depth + 1}.block{i % space.max_depth + 1}"
        for i in range(space.blocks)
    ]
    return (
        *(f"kernel.{place}" for place in places),
        *(f"expand.{place}" for place in places),
        *(f"depth.stage{stage + 1}" for stage in range(len(space.stages))),
        "resolution",
        "peak_memory_bytes",
        *_sum_names(space),
    )


def features(rows: np.ndarray, tables: SpaceTables) -> np.ndarray:
    """Features of every row, (n, len(feature_names(space))) float32.

    The choices of each block (0: skipped), depths and resolution, then figures of the operator
    graph: peak memory, and per stage and per kind of operator the sums of MACs, bytes and kernels.
    """
    width = rows.shape[1] if rows.ndim == 2 else 0
    sums = tables.sums(rows)
    result = np.empty((len(rows), width + 1 + sums.shape[1]), dtype=np.float32)
    result[:, :width] = rows
    result[:, width] = tables.peak_memory_bytes(rows)
    result[:, width + 1 :] = sums
    return result


def block_index(space: ArchSpace, name: str) -> int | None:
    """Index of the elastic block that node `name` is in, None for the fixed parts."""
    head, _, rest = name.partition(".")
    if not head.startswith("stage"):
        return None
    position = rest.partition(".")[0].removeprefix("block")
    return (int(head.removeprefix("stage")) - 1) * space.max_depth + int(position) - 1


def _segments(
    space: ArchSpace, graph: nx.DiGraph[str]
) -> Iterator[tuple[int | None, nx.DiGraph[str]]]:
    """Runs of consecutive nodes in one block or fixed part, each with the tensors it reads."""
    runs: list[tuple[int | None, list[str]]] = []
    for name in graph:
        block = block_index(space, name)
        if not runs or runs[-1][0] != block:
            runs.append((block, []))
        runs[-1][1].append(name)
    for block, names in runs:
        inside = set(names)
        outside = [p for name in names for p in graph.predecessors(name) if p not in inside]
        segment: nx.DiGraph[str] = nx.DiGraph()
        for name in (*dict.fromkeys(outside), *names):
            segment.add_node(name, **graph.nodes[name])
        for name in names:
            segment.add_edges_from((p, name) for p in graph.predecessors(name))
        yield block, segment


def _total_vectors(graph: nx.DiGraph[str]) -> dict[str, Sequence[float]]:
    return {
        name: (operator.macs, operator.params, operator.weight_bytes)
        for name, operator in operators(graph).items()
    }


def _sum_names(space: ArchSpace) -> tuple[str, ...]:
    stages = range(1, len(space.stages) + 1)
    return (
        "macs",
        "params",
        "weight_bytes",
        "kernels",
        *(f"macs.stage{s}" for s in stages),
        *(f"bytes.stage{s}" for s in stages),
        *(f"macs.depthwise{k}" for k in space.kernels),
        *(f"bytes.depthwise{k}" for k in space.kernels),
        "macs.pointwise",
        "bytes.pointwise",
        "macs.dense",
        "bytes.mean",
        "bytes.scale",
        "bytes.add",
    )


def _feature_vectors(graph: nx.DiGraph[str], space: ArchSpace) -> dict[str, Sequence[float]]:
    names = {name: column for column, name in enumerate(_sum_names(space))}
    result: dict[str, Sequence[float]] = {}
    for node, operator in operators(graph).items():
        vector = [0.0] * len(names)
        for name, value in _feature_terms(node, operator).items():
            if name in names:
                vector[names[name]] = value
        result[node] = vector
    return result


def _feature_terms(node: str, operator: Operator) -> dict[str, float]:
    moved = operator.out_bytes + 4 * int(np.prod(operator.in_shape))
    kind = operator.kind + (str(operator.kernel) if operator.kind == "depthwise" else "")
    stage = node.partition(".")[0]
    return {
        "macs": operator.macs,
        "params": operator.params,
        "weight_bytes": operator.weight_bytes,
        "kernels": operator.kind not in FUSED_KINDS,
        f"macs.{stage}": operator.macs,
        f"bytes.{stage}": moved,
        f"macs.{kind}": operator.macs,
        f"bytes.{kind}": moved,
    }
