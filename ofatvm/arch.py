"""Search spaces and architectures: `ArchSpace` is the elastic dimensions, `Arch` one point."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ofatvm.errors import ArchError, shorten

MAX_NUMBER = 99_999
ACTIVATIONS = ("relu", "h_swish")


def make_divisible(value: float, divisor: int = 8) -> int:
    """Nearest multiple of `divisor`, never below 90 % of `value` (the MobileNet rule)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One elastic stage: output channels, stride of its first block, activation, squeeze-excite."""

    width: int
    stride: int
    activation: str
    squeeze_excite: bool

    def __post_init__(self) -> None:
        """Refuse what no network could be built from."""
        if self.width < 1 or self.stride not in (1, 2):
            raise ArchError(
                f"stage width must be >= 1 and stride 1 or 2, got width {self.width}, "
                f"stride {self.stride}"
            )
        if self.activation not in ACTIVATIONS:
            raise ArchError(f"activation must be one of {ACTIVATIONS}, got {self.activation!r}")


@dataclass(frozen=True, slots=True)
class ArchSpace:
    """A family of MBConv networks with elastic kernel, expand ratio, depth and resolution.

    The fixed parts are a k3 stem, a k3 MBConv with expand 1, and a head of a 1x1 convolution, a
    global mean, a 1x1 convolution and a classifier. `code` is the short prefix of encoded
    architectures. Widths are final channel counts, any width multiplier already applied.
    """

    name: str
    code: str
    stem_width: int
    first_width: int
    stages: tuple[StageSpec, ...]
    head_width: int
    feature_width: int
    classes: int
    resolutions: tuple[int, ...]
    stem_stride: int = 2
    stem_activation: str = "h_swish"
    first_activation: str = "relu"
    head_activation: str = "h_swish"
    in_channels: int = 3
    kernels: tuple[int, ...] = (3, 5, 7)
    expands: tuple[int, ...] = (3, 4, 6)
    depths: tuple[int, ...] = (2, 3, 4)

    def __post_init__(self) -> None:
        """Check that every dimension has sorted, sensible choices."""
        if not re.fullmatch(r"[A-Za-z0-9_.]+", self.code):
            raise ArchError(f"space code may hold letters, digits, '_' and '.', got {self.code!r}")
        if not self.stages:
            raise ArchError(f"space {self.name!r} has no stages")
        for label, choices in (
            ("kernels", self.kernels),
            ("expands", self.expands),
            ("depths", self.depths),
            ("resolutions", self.resolutions),
        ):
            if not choices or list(choices) != sorted(set(choices)) or choices[0] < 1:
                raise ArchError(f"{label} must be distinct positive numbers in order: {choices}")
        if any(k % 2 == 0 or k > 9 for k in self.kernels) or self.expands[-1] > 9:
            raise ArchError(
                f"kernels must be odd and <= 9, expands <= 9: {self.kernels}, {self.expands}"
            )

    @property
    def max_depth(self) -> int:
        """Blocks of a stage at full depth."""
        return self.depths[-1]

    @property
    def blocks(self) -> int:
        """Elastic blocks of the whole network at full depth."""
        return len(self.stages) * self.max_depth

    @property
    def row_width(self) -> int:
        """Columns of the array form: kernels, expands, depths, resolution."""
        return 2 * self.blocks + len(self.stages) + 1

    def size(self) -> int:
        """Exact number of distinct architectures at one resolution."""
        per_block = len(self.kernels) * len(self.expands)
        per_stage = sum(per_block**depth for depth in self.depths)
        return int(per_stage ** len(self.stages))

    def block_inputs(self, stage: int, position: int) -> int:
        """Input channels of a block."""
        if position > 0:
            return self.stages[stage].width
        return self.stages[stage - 1].width if stage else self.first_width

    def mid_channels(self, stage: int, position: int, expand: int) -> int:
        """Channels between a block's two 1x1 convolutions: expand times its *input* channels."""
        return make_divisible(round(self.block_inputs(stage, position) * expand))

    def at(self, *resolutions: int) -> ArchSpace:
        """The same space restricted to some of its resolutions."""
        for resolution in resolutions:
            self.check_resolution(resolution)
        return replace(self, resolutions=tuple(sorted(set(resolutions))))

    def check_resolution(self, resolution: int) -> None:
        """Raise ArchError unless the space has this resolution."""
        if resolution not in self.resolutions:
            low, high = self.resolutions[0], self.resolutions[-1]
            near = min(self.resolutions, key=lambda choice: abs(choice - resolution))
            raise ArchError(
                f"resolution {resolution} is not in {self.name} ({low} to {high})",
                hint=f"the nearest is {near}",
            )

    def arch(
        self,
        kernels: Sequence[int],
        expands: Sequence[int],
        depths: Sequence[int],
        resolution: int | None = None,
    ) -> Arch:
        """Build the canonical `Arch`; entries of skipped blocks may hold anything."""
        if len(depths) != len(self.stages):
            raise ArchError(f"{self.name} needs {len(self.stages)} depths, got {len(depths)}")
        for label, values in (("kernel sizes", kernels), ("expand ratios", expands)):
            if len(values) != self.blocks:
                raise ArchError(f"{self.name} needs {self.blocks} {label}, got {len(values)}")
        used = [i % self.max_depth < depths[i // self.max_depth] for i in range(self.blocks)]
        return Arch(
            self,
            tuple(k if on else 0 for k, on in zip(kernels, used, strict=True)),
            tuple(e if on else 0 for e, on in zip(expands, used, strict=True)),
            tuple(depths),
            self.resolutions[-1] if resolution is None else resolution,
        )

    def uniform(
        self, *, kernel: int, expand: int, depth: int, resolution: int | None = None
    ) -> Arch:
        """The architecture with one choice everywhere."""
        n = self.blocks
        return self.arch([kernel] * n, [expand] * n, [depth] * len(self.stages), resolution)

    def largest(self, resolution: int | None = None) -> Arch:
        """The architecture with the largest choice everywhere."""
        return self.uniform(
            kernel=self.kernels[-1],
            expand=self.expands[-1],
            depth=self.depths[-1],
            resolution=resolution,
        )

    def smallest(self, resolution: int | None = None) -> Arch:
        """The architecture with the smallest choice everywhere (at the largest resolution)."""
        return self.uniform(
            kernel=self.kernels[0],
            expand=self.expands[0],
            depth=self.depths[0],
            resolution=resolution,
        )

    def sample_rows(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """`count` rows, every choice drawn uniformly and independently, skipped blocks zeroed."""
        blocks, stages = self.blocks, len(self.stages)
        rows = np.empty((count, self.row_width), dtype=np.int32)
        rows[:, :blocks] = rng.choice(self.kernels, size=(count, blocks))
        rows[:, blocks : 2 * blocks] = rng.choice(self.expands, size=(count, blocks))
        rows[:, 2 * blocks : 2 * blocks + stages] = rng.choice(self.depths, size=(count, stages))
        rows[:, -1] = rng.choice(self.resolutions, size=count)
        return self.canonical_rows(rows)

    def canonical_rows(self, rows: np.ndarray) -> np.ndarray:
        """Zero kernel and expand of skipped blocks; `rows` is (n, row_width), changed in place."""
        blocks, stages = self.blocks, len(self.stages)
        depths = rows[:, 2 * blocks : 2 * blocks + stages]
        used = (np.arange(self.max_depth) < depths[:, :, None]).reshape(len(rows), blocks)
        rows[:, :blocks] *= used
        rows[:, blocks : 2 * blocks] *= used
        return rows

    def sample(self, rng: np.random.Generator) -> Arch:
        """One architecture, every choice drawn uniformly and independently."""
        return self.from_rows(self.sample_rows(rng, 1))[0]

    def to_rows(self, archs: Iterable[Arch]) -> np.ndarray:
        """Array form, (n, row_width) int32: kernels, expands, depths, resolution."""
        rows = [(*a.kernels, *a.expands, *a.depths, a.resolution) for a in archs]
        return np.array(rows, dtype=np.int32).reshape(len(rows), self.row_width)

    def from_rows(self, rows: np.ndarray) -> list[Arch]:
        """The architectures of canonical `rows` (n, row_width)."""
        blocks, stages = self.blocks, len(self.stages)
        return [
            self.arch(r[:blocks], r[blocks : 2 * blocks], r[2 * blocks : -1], r[-1])
            for r in rows.reshape(-1, 2 * blocks + stages + 1).tolist()
        ]

    def parse(self, text: str) -> Arch:
        """An architecture of this space from its encoded string or OFA's JSON; or ArchError."""
        text = text.strip()
        if text.startswith("{"):
            return self._parse_json(text)
        match = re.fullmatch(r"([A-Za-z0-9_.]+)/([0-9]{1,5})/([0-9.\-]+)", text)
        if not match:
            raise ArchError(
                f"not an architecture: {shorten(text)!r}",
                hint=f"expected a string like {self.smallest().encode()} or OFA's JSON with "
                '"ks", "e" and "d"',
            )
        code, resolution, body = match.groups()
        if code != self.code:
            raise ArchError(f"architecture {shorten(text)!r} is of space {code}, not {self.code}")
        stages = body.split("-")
        if len(stages) != len(self.stages):
            raise ArchError(
                f"{self.name} has {len(self.stages)} stages, {shorten(text)!r} has {len(stages)}"
            )
        kernels: list[int] = []
        expands: list[int] = []
        for index, stage in enumerate(stages):
            pairs = stage.split(".")
            if any(not re.fullmatch(r"\d\d", pair) for pair in pairs) or len(pairs) not in (
                self.depths
            ):
                raise ArchError(
                    f"stage {index + 1} of {shorten(text)!r} must be {self.depths[0]} to "
                    f"{self.depths[-1]} blocks of two digits (kernel, expand), got {stage!r}"
                )
            padding = [0] * (self.max_depth - len(pairs))
            kernels += [int(pair[0]) for pair in pairs] + padding
            expands += [int(pair[1]) for pair in pairs] + padding
        return self.arch(kernels, expands, [len(s.split(".")) for s in stages], int(resolution))

    def _parse_json(self, text: str) -> Arch:
        try:
            value: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            where = f" ({error})" if isinstance(error, json.JSONDecodeError) else ""
            raise ArchError(f"not valid JSON: {shorten(text)!r}{where}") from None
        unknown = sorted(set(value) - {"ks", "e", "d", "r", "wid"})
        missing = sorted({"ks", "e", "d"} - set(value))
        if unknown or missing:
            raise ArchError(
                f"an OFA architecture has the keys ks, e, d and perhaps r; missing {missing}, "
                f"unknown {shorten(str(unknown))} in {shorten(text)!r}"
            )
        if value.get("wid") is not None:
            given = shorten(repr(value["wid"]))
            raise ArchError(f'"wid" must be null (the space fixes the width), got {given}')
        resolution = value.get("r")
        if isinstance(resolution, list) and len(resolution) == 1:
            resolution = resolution[0]
        kernels, expands, depths = value["ks"], value["e"], value["d"]
        for entry in (kernels, expands, depths, [] if resolution is None else [resolution]):
            if not isinstance(entry, list) or any(
                type(item) is not int or abs(item) > MAX_NUMBER for item in entry
            ):
                raise ArchError(
                    f"ks, e, d and r must be lists of small whole numbers: {shorten(text)!r}"
                )
        return self.arch(kernels, expands, depths, resolution)


@dataclass(frozen=True, slots=True)
class Arch:
    """One architecture of a space at one resolution, in canonical form.

    `kernels` and `expands` have one entry per block at full depth, 0 where the block is skipped.
    """

    space: ArchSpace = field(repr=False)
    kernels: tuple[int, ...]
    expands: tuple[int, ...]
    depths: tuple[int, ...]
    resolution: int

    def __post_init__(self) -> None:
        """Check every entry against the space's choices."""
        space = self.space
        space.check_resolution(self.resolution)
        for stage, depth in enumerate(self.depths):
            if depth not in space.depths:
                raise ArchError(
                    f"depth of stage {stage + 1} must be one of {space.depths}, got {depth}"
                )
        for label, values, choices in (
            ("kernel size", self.kernels, space.kernels),
            ("expand ratio", self.expands, space.expands),
        ):
            for index, value in enumerate(values):
                stage, position = divmod(index, space.max_depth)
                skipped = position >= self.depths[stage]
                if (value != 0) if skipped else (value not in choices):
                    allowed = "0 (the block is skipped)" if skipped else f"one of {choices}"
                    raise ArchError(
                        f"{label} of stage {stage + 1}, block {position + 1} must be {allowed}, "
                        f"got {value}"
                    )

    def active_blocks(self) -> list[tuple[int, int, int, int]]:
        """(stage, position, kernel, expand) of every block that is there, in order."""
        depth = self.space.max_depth
        return [
            (i // depth, i % depth, kernel, self.expands[i])
            for i, kernel in enumerate(self.kernels)
            if kernel
        ]

    def at(self, resolution: int) -> Arch:
        """The same architecture at another resolution."""
        return replace(self, resolution=resolution)

    def encode(self) -> str:
        """Short string: space code, resolution, and per stage its blocks as kernel-expand digits.

        `parse_arch(arch.encode()) == arch`.
        """
        depth = self.space.max_depth
        stages = []
        for stage, used in enumerate(self.depths):
            first = stage * depth
            pairs = zip(self.kernels[first:], self.expands[first:], strict=True)
            stages.append(".".join(f"{k}{e}" for k, e in list(pairs)[:used]))
        return f"{self.space.code}/{self.resolution}/{'-'.join(stages)}"

    def __str__(self) -> str:
        """The encoded string."""
        return self.encode()


def leaning(
    rng: np.random.Generator, share: float, choices: Sequence[int], count: int
) -> list[int]:
    """`count` of ascending choices, each the largest with probability `share` where there are two.

    Of more choices, which one is binomial. Of one share for kernels, expand ratios and depths come
    subnets of every size; drawn uniformly, nearly all are of middling size.
    """
    return [choices[index] for index in rng.binomial(len(choices) - 1, share, count)]
