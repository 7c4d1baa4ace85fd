"""Top-1 accuracy of a space's subnets, from a small model fitted to evaluated ones.

top-1 = a term per block and choice
      + products of per-stage sums (kernel sizes, expand ratios, depths)
      + a cubic in log MACs + an intercept
      + for each of several resolutions: a term, a slope of every per-stage sum, and a change of
        the cubic's first two coefficients

The second and third let returns diminish; without them a fit to rows that a search met is off by
a quarter of a point on subnets drawn at random.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ofatvm.arch import ArchSpace
from ofatvm.errors import ArchError, MissingInputError
from ofatvm.files import read_file, replace_file
from ofatvm.paths import data_dir
from ofatvm.predict.accuracy_fit import Penalties, check_table, fit_terms
from ofatvm.predict.accuracy_terms import CURVE, stage_offsets, stage_terms
from ofatvm.predict.features import BlockTable, SpaceTables
from ofatvm.spaces import find_space

SCHEMA = 2
LARGEST_NUMBER = 1e6  # in a file; a model in percent has no larger ones
_CHUNK = 4096
_HEAD = ("schema", "kind", "space", "resolution", "resolutions")
_NUMBERS = ("intercept", "log_macs", "products", "by_resolution", "terms")


@dataclass(frozen=True, slots=True, eq=False)
class AccuracyModel:
    """A fitted model of one space at some resolutions; `about` holds source, licence and errors.

    `terms` is (blocks, states) with state 0 a skipped block and the others kernel by expand;
    `products` is (3 * stages, 3 * stages) over the sums of `stage_terms`; `curves` is
    (resolutions, 5): centre, scale and three coefficients of a polynomial in log MACs;
    `by_resolution` is (resolutions, 1 + 3 * stages): a constant and the slopes of those sums.
    """

    tables: SpaceTables
    terms: np.ndarray
    products: np.ndarray
    curves: np.ndarray
    by_resolution: np.ndarray
    intercept: float
    about: Mapping[str, Any] = field(default_factory=dict)
    _vectors: BlockTable = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Put everything that adds up over blocks into one table."""
        macs = self.tables.macs_table()
        of_stages = stage_terms(self.tables.space)
        offsets = stage_offsets(self.tables.space)
        slopes = self.by_resolution[:, 1:]
        constant = self.intercept + self.by_resolution[:, 0] + np.einsum("rf,f->r", slopes, offsets)
        terms = self.terms + np.einsum("rf,bsf->rbs", slopes, of_stages)
        count, width = len(slopes), len(offsets)
        fixed = [constant[:, None], macs.fixed, np.tile(offsets, (count, 1))]
        blocks = [
            terms.reshape(-1, 1),
            macs.blocks,
            np.tile(of_stages.reshape(-1, width), (count, 1)),
        ]
        vectors = BlockTable(self.tables, np.concatenate(fixed, 1), np.concatenate(blocks, 1))
        object.__setattr__(self, "_vectors", vectors)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The only resolutions it can predict for."""
        return self.tables.resolutions

    def covers(self, space: ArchSpace) -> bool:
        """Whether it is of this space and was fitted at all its resolutions."""
        return space.code == self.tables.space.code and set(space.resolutions) <= set(
            self.resolutions
        )

    def require(self, space: ArchSpace) -> None:
        """Raise MissingInputError unless the model covers `space` at all its resolutions."""
        if not self.covers(space):
            raise _no_model(space)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Top-1 in percent of every row (n, row_width), (n,) float64.

        Nothing is clipped: far outside of what it was fitted to, a prediction may lie below the
        worst or above the best evaluated subnet, in principle even outside of 0 to 100.
        """
        others = set(rows[:, -1:].ravel().tolist()) - set(self.resolutions)
        if others:
            raise ArchError(
                f"the accuracy model of {self.tables.space.name} was fitted at "
                f"{_listed(self.resolutions)}, not at {min(others)}"
            )
        result = np.empty(len(rows))
        for start in range(0, len(rows), _CHUNK):
            result[start : start + _CHUNK] = self._predict(rows[start : start + _CHUNK])
        return result

    def _predict(self, rows: np.ndarray) -> np.ndarray:
        vectors = self._vectors.vectors(rows)
        sums = vectors[:, 2:]
        curves = self.curves[np.searchsorted(self.resolutions, rows[:, -1])].T
        size = (np.log(vectors[:, 1]) - curves[0]) / curves[1]
        # einsum and not BLAS, whose sums depend on the number of threads.
        inner = np.einsum("ni,ij->nj", sums, self.products)
        result: np.ndarray = vectors[:, 0] + np.einsum("nj,nj->n", inner, sums)
        for power, coefficients in enumerate(curves[2:], start=1):
            result += coefficients * size**power
        return result

    @classmethod
    def fit(
        cls,
        rows: np.ndarray,
        top1_percent: np.ndarray,
        uniform: np.ndarray,
        space: ArchSpace,
        *,
        penalties: Penalties | None = None,
        seed: int = 0,
    ) -> AccuracyModel:
        """Fit to evaluated `rows` (n, row_width) with `top1_percent` (n,), at any resolutions.

        `uniform` (n,) marks rows drawn at random. Where they are few they weigh more, and the
        intercept is set so that their out-of-fold errors are zero on average: the model is to be
        right for the space, not for what a search liked. Penalties are chosen by cross-validation
        over whole architectures unless given. A table that is too small, or whose accuracies are
        no percentages or all the same, is a DatasetError.
        """
        check_table(rows, top1_percent, uniform)
        tables = SpaceTables.build(space, *sorted(set(rows[:, -1].tolist())))
        found, used = fit_terms(rows, top1_percent, uniform, tables, penalties=penalties, seed=seed)
        return cls(
            tables=tables,
            terms=found.blocks,
            products=found.products,
            curves=found.curves,
            by_resolution=found.resolutions,
            intercept=found.intercept,
            about={"penalties": asdict(used)},
        )

    def save(self, path: Path, about: Mapping[str, Any]) -> None:
        """Write plain JSON numbers with `about` (source, licence, command, errors) before them."""
        content = {
            "schema": SCHEMA,
            "kind": "accuracy",
            "space": self.tables.space.name,
            "resolutions": list(self.resolutions),
            **{key: value for key, value in about.items() if key not in (*_HEAD, *_NUMBERS)},
            "intercept": _rounded(self.intercept),
            "log_macs": _table(self.curves),
            "products": _table(self.products),
            "by_resolution": _table(self.by_resolution),
            "terms": _table(self.terms),
        }
        lines = ",\n".join(
            f" {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()
        )
        replace_file(path, f"{{\n{lines}\n}}\n".encode())

    @classmethod
    def load(cls, path: Path) -> AccuracyModel:
        """Read what `save` wrote, or a file of schema 1, which has a single resolution."""
        try:
            return cls._parse(json.loads(read_file(path)))
        except FileNotFoundError:
            raise MissingInputError(f"there is no accuracy model {path}") from None
        except (ArchError, KeyError, OSError, RecursionError, ValueError) as error:
            why = f"it has no {error}" if isinstance(error, KeyError) else error
            raise MissingInputError(
                f"the accuracy model {path} cannot be used: {why}",
                hint="fit it again: with `ofatvm train`, or the one for ImageNet with "
                "benchmarks/fit_accuracy.py",
            ) from None

    @classmethod
    def _parse(cls, content: Any) -> AccuracyModel:
        if not isinstance(content, dict) or content.get("kind") != "accuracy":
            raise ValueError("it is not an accuracy model")
        schema = content.get("schema")
        if schema not in (1, SCHEMA):
            raise ValueError(f"it is not of schema {SCHEMA} or 1")
        if not isinstance(content["space"], str):
            raise ValueError("its space is no name")
        space = find_space(content["space"])
        resolutions = [content["resolution"]] if schema == 1 else content["resolutions"]
        if (
            not isinstance(resolutions, list)
            or not resolutions
            or not all(type(value) is int for value in resolutions)
            or resolutions != sorted(set(resolutions))
        ):
            raise ValueError("its resolutions are no whole numbers in order")
        count, width = len(resolutions), 3 * len(space.stages)
        states = len(space.kernels) * len(space.expands) + 1
        curves = [content["log_macs"]] if schema == 1 else content["log_macs"]
        others = np.zeros((count, 1 + width)) if schema == 1 else content["by_resolution"]
        curve = _checked("log_macs", curves, (count, 2 + CURVE))
        if (curve[:, 1] <= 1e-6).any():
            raise ValueError("log_macs has a scale that is not positive")
        return cls(
            tables=SpaceTables.build(space, *resolutions),
            terms=_checked("terms", content["terms"], (space.blocks, states)),
            products=_checked("products", content["products"], (width, width)),
            curves=curve,
            by_resolution=_checked("by_resolution", others, (count, 1 + width)),
            intercept=float(_checked("intercept", content["intercept"], ())),
            about={key: content[key] for key in content if key not in (*_HEAD, *_NUMBERS)},
        )


def find_accuracy_model(space: ArchSpace) -> AccuracyModel:
    """The model shipped for `space` at all the resolutions it has, or MissingInputError."""
    for path in sorted(data_dir("models").glob("accuracy_*.json")):
        model = AccuracyModel.load(path)
        if model.covers(space):
            return model
    raise _no_model(space)


def _no_model(space: ArchSpace) -> MissingInputError:
    return MissingInputError(
        f"there is no accuracy model for {space.name} at {_listed(space.resolutions)}",
        hint="a model is of one space at the resolutions it was fitted at, such as "
        "ofa_mbv3_d234_e346_k357_w1.0 at 224",
    )


def _listed(resolutions: tuple[int, ...]) -> str:
    return ", ".join(map(str, resolutions))


def _checked(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    try:
        numbers = np.array(value, dtype=np.float64)
    except (OverflowError, TypeError, ValueError):
        raise ValueError(f"{name} is no table of numbers") from None
    if numbers.shape != shape:
        raise ValueError(f"{name} has the shape {numbers.shape}, not {shape}")
    if not (np.abs(numbers) <= LARGEST_NUMBER).all():
        raise ValueError(f"{name} has numbers out of range")
    return numbers


def _table(values: np.ndarray) -> list[list[float]]:
    return [[_rounded(value) for value in row] for row in values]


def _rounded(value: float) -> float:
    return float(f"{float(value):.9g}")
