"""Top-1 accuracy of a space's subnets, from a small model fitted to evaluated ones.

top-1 = a term per block and choice
      + products of per-stage sums (kernel sizes, expand ratios, depths)
      + a cubic in log MACs + an intercept

The last two let returns diminish; without them a fit to rows that a search met is off by a
quarter of a point on subnets drawn at random.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ofatvm.arch import ArchSpace, find_space
from ofatvm.errors import ArchError, MissingInputError
from ofatvm.files import replace_file
from ofatvm.paths import data_dir
from ofatvm.predict.features import BlockTable, SpaceTables

SCHEMA = 1
PENALTY = 3.0
UNIFORM_WEIGHT = 5.0
CROSS_SHARE = 0.3  # scale of kernel-with-expand terms against kernel and expand terms
FOLDS = 5
_CHUNK = 4096


@dataclass(frozen=True, slots=True, eq=False)
class AccuracyModel:
    """A fitted model of one space at one resolution; `about` holds source, licence and errors.

    `terms` is (blocks, states) with state 0 a skipped block and the others kernel by expand;
    `products` is (3 * stages, 3 * stages) over the sums of `_stage_terms`; `curve` is centre,
    scale and three coefficients of a polynomial in log MACs.
    """

    tables: SpaceTables
    terms: np.ndarray
    products: np.ndarray
    curve: tuple[float, float, float, float, float]
    intercept: float
    about: Mapping[str, Any] = field(default_factory=dict)
    _vectors: BlockTable = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Put everything that adds up over blocks into one table."""
        space = self.tables.space
        macs = self.tables.macs_table()
        stage_terms = _stage_terms(space)
        width = stage_terms.shape[2]
        fixed = np.concatenate([[self.intercept, macs.fixed[0, 0]], _stage_offsets(space)])
        blocks = np.concatenate(
            [self.terms.reshape(-1, 1), macs.blocks, stage_terms.reshape(-1, width)], axis=1
        )
        object.__setattr__(self, "_vectors", BlockTable(self.tables, fixed[None], blocks))

    @property
    def resolution(self) -> int:
        """The only resolution it can predict for."""
        return self.tables.resolutions[0]

    def require(self, space: ArchSpace) -> None:
        """Raise MissingInputError unless the model covers `space` at all its resolutions."""
        if space.code != self.tables.space.code or space.resolutions != (self.resolution,):
            raise _no_model(space)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Top-1 in percent of every row (n, row_width), (n,) float64."""
        others = set(rows[:, -1:].ravel().tolist()) - {self.resolution}
        if others:
            raise ArchError(
                f"the accuracy model of {self.tables.space.name} was fitted at "
                f"{self.resolution}, not at {sorted(others)[0]}"
            )
        result = np.empty(len(rows))
        for start in range(0, len(rows), _CHUNK):
            result[start : start + _CHUNK] = self._predict(rows[start : start + _CHUNK])
        return result

    def _predict(self, rows: np.ndarray) -> np.ndarray:
        vectors = self._vectors.vectors(rows)
        sums = vectors[:, 2:]
        center, scale, *coefficients = self.curve
        size = (np.log(vectors[:, 1]) - center) / scale
        # einsum and not BLAS, whose sums depend on the number of threads.
        inner = np.einsum("ni,ij->nj", sums, self.products)
        result: np.ndarray = vectors[:, 0] + np.einsum("nj,nj->n", inner, sums)
        for power, coefficient in enumerate(coefficients, start=1):
            result += coefficient * size**power
        return result

    @classmethod
    def fit(
        cls,
        rows: np.ndarray,
        top1_percent: np.ndarray,
        uniform: np.ndarray,
        space: ArchSpace,
        *,
        seed: int = 0,
    ) -> AccuracyModel:
        """Fit to evaluated `rows` (n, row_width) with `top1_percent` (n,), all at one resolution.

        `uniform` (n,) marks rows drawn at random. They weigh more, and the intercept is set so
        that their out-of-fold errors are zero on average: the model is to be right for the space,
        not for what a search liked.
        """
        resolutions = sorted(set(rows[:, -1].tolist()))
        if len(resolutions) != 1:
            raise ArchError(f"an accuracy model is of one resolution, the rows have {resolutions}")
        tables = SpaceTables.build(space, resolutions[0])
        model = _fit(rows, top1_percent, uniform, tables)
        drawn = np.random.default_rng(seed).permutation(np.flatnonzero(uniform))
        errors = []
        for fold in range(min(FOLDS, len(drawn))):
            held = drawn[fold::FOLDS]
            kept = np.setdiff1d(np.arange(len(rows)), held)
            other = _fit(rows[kept], top1_percent[kept], uniform[kept], tables)
            errors.extend(top1_percent[held] - other.predict(rows[held]))
        offset = float(np.mean(errors)) if errors else 0.0
        return replace(model, intercept=model.intercept + offset)

    def save(self, path: Path, about: Mapping[str, Any]) -> None:
        """Write plain JSON numbers with `about` (source, licence, command, errors) before them."""
        content = {
            "schema": SCHEMA,
            "kind": "accuracy",
            "space": self.tables.space.name,
            "resolution": self.resolution,
            **about,
            "intercept": _rounded(self.intercept),
            "log_macs": [_rounded(value) for value in self.curve],
            "products": [[_rounded(value) for value in row] for row in self.products],
            "terms": [[_rounded(value) for value in row] for row in self.terms],
        }
        lines = ",\n".join(
            f" {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()
        )
        replace_file(path, f"{{\n{lines}\n}}\n".encode())

    @classmethod
    def load(cls, path: Path) -> AccuracyModel:
        """Read what `save` wrote."""
        try:
            content = json.loads(path.read_bytes())
            if content["schema"] != SCHEMA or content["kind"] != "accuracy":
                raise ValueError(f"it is not an accuracy model of schema {SCHEMA}")
            space = find_space(content["space"])
            terms = np.array(content["terms"], dtype=np.float64)
            products = np.array(content["products"], dtype=np.float64)
            states, stages = len(space.kernels) * len(space.expands) + 1, len(space.stages)
            if terms.shape != (space.blocks, states) or products.shape != (3 * stages, 3 * stages):
                raise ValueError(f"tables of shapes {terms.shape}, {products.shape} do not fit")
            center, scale, first, second, third = map(float, content["log_macs"])
            intercept = float(content["intercept"])
        except FileNotFoundError:
            raise MissingInputError(f"there is no accuracy model {path}") from None
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise MissingInputError(
                f"the accuracy model {path} cannot be used: {error}",
                hint="fit it again with benchmarks/fit_accuracy.py",
            ) from None
        tables = SpaceTables.build(space, content["resolution"])
        numbers = ("intercept", "log_macs", "products", "terms")
        about = {key: value for key, value in content.items() if key not in numbers}
        return cls(tables, terms, products, (center, scale, first, second, third), intercept, about)


def find_accuracy_model(space: ArchSpace) -> AccuracyModel:
    """The model shipped for `space` restricted to one resolution, or MissingInputError."""
    for path in sorted(data_dir("models").glob("accuracy_*.json")):
        model = AccuracyModel.load(path)
        if (model.tables.space.code, (model.resolution,)) == (space.code, space.resolutions):
            return model
    raise _no_model(space)


def _no_model(space: ArchSpace) -> MissingInputError:
    where = ", ".join(map(str, space.resolutions))
    return MissingInputError(
        f"there is no accuracy model for {space.name} at {where}",
        hint="models are fitted for one space at one resolution, such as "
        "ofa_mbv3_d234_e346_k357_w1.0 at 224",
    )


def _fit(
    rows: np.ndarray, top1: np.ndarray, uniform: np.ndarray, tables: SpaceTables
) -> AccuracyModel:
    space = tables.space
    where, _ = tables.locate(rows)
    stage_terms = _stage_terms(space)
    width = stage_terms.shape[2]
    sums = stage_terms.reshape(-1, width)[where].sum(axis=1) + _stage_offsets(space)
    upper = np.triu_indices(width)
    size = np.log(tables.macs(rows))
    center, scale = float(size.mean()), float(size.std()) or 1.0
    size = (size - center) / scale
    basis = _state_basis(space)
    states = len(basis)
    design = np.concatenate(
        [
            basis[where % states].reshape(len(rows), -1),
            sums[:, upper[0]] * sums[:, upper[1]],
            np.stack([size, size**2, size**3], axis=1),
        ],
        axis=1,
    )
    weight = np.where(uniform, UNIFORM_WEIGHT, 1.0)
    mean = weight @ design / weight.sum()
    middle = float(weight @ top1 / weight.sum())
    shifted = design - mean
    normal = (shifted * weight[:, None]).T @ shifted + PENALTY * np.eye(design.shape[1])
    solution = np.linalg.solve(normal, shifted.T @ (weight * (top1 - middle)))
    blocks = space.blocks * basis.shape[1]
    products = np.zeros((width, width))
    products[upper] = solution[blocks:-3]
    return AccuracyModel(
        tables=tables,
        terms=solution[:blocks].reshape(space.blocks, -1) @ basis.T,
        products=products,
        curve=(center, scale, *(float(c) for c in solution[-3:])),  # type: ignore[arg-type]
        intercept=middle - float(mean @ solution),
    )


def _state_basis(space: ArchSpace) -> np.ndarray:
    """What a block's state is made of, (states, terms): there, kernel, expand, both."""
    kernels, expands = len(space.kernels), len(space.expands)
    both = np.eye(kernels * expands)
    parts = [
        np.ones((kernels * expands, 1)),
        np.repeat(np.eye(kernels), expands, axis=0),
        np.tile(np.eye(expands), (kernels, 1)),
        CROSS_SHARE * both,
    ]
    there = np.concatenate(parts, axis=1)
    return np.concatenate([np.zeros((1, there.shape[1])), there])


def _stage_terms(space: ArchSpace) -> np.ndarray:
    """What a block adds to its stage's sums, (blocks, states, 3 * stages).

    Sums are, for each stage: kernel sizes, expand ratios, depth; each block's choices counted in
    half steps from the middle of the choices.
    """
    stages, expands = len(space.stages), len(space.expands)
    kernel = np.repeat(_centred(space.kernels), expands)
    expand = np.tile(_centred(space.expands), len(space.kernels))
    result = np.zeros((space.blocks, len(kernel) + 1, 3 * stages))
    for block in range(space.blocks):
        stage = block // space.max_depth
        result[block, 1:, stage] = kernel
        result[block, 1:, stages + stage] = expand
        result[block, 1:, 2 * stages + stage] = 1
    return result


def _stage_offsets(space: ArchSpace) -> np.ndarray:
    """What the sums start from, (3 * stages,): depth counts from the middle depth."""
    stages = len(space.stages)
    return np.concatenate([np.zeros(2 * stages), np.full(stages, -float(np.mean(space.depths)))])


def _centred(choices: tuple[int, ...]) -> np.ndarray:
    values = np.array(choices, dtype=np.float64)
    span = values[-1] - values[0]
    result: np.ndarray = (values - values.mean()) / (span or 1.0)
    return result


def _rounded(value: float) -> float:
    return float(f"{float(value):.9g}")
