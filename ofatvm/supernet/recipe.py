"""How a supernet is trained, as data: phases with their elastic choices, epochs and rates.

`progressive` is the progressive shrinking of the Once-for-All paper (ICLR 2020, section 3.3 and its
released schedule); `sandwich` is the one-phase recipe of BigNAS (ECCV 2020): largest, smallest and
random subnets in every step, the largest teaching the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from ofatvm.arch import Arch, ArchSpace
from ofatvm.errors import BudgetError

MAX_EPOCHS = 10_000
Teacher = Literal["none", "largest", "in place"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One phase: which choices are open, for how long, and who teaches.

    `kernels`, `expands` and `depths` say how many of the space's choices are open, counted from the
    largest. `subnets` are drawn at random in every step; with `ends` the largest and the smallest
    are trained as well. All subnets of a step stand at one resolution, drawn at random; with
    `resolutions` "each" the largest stands at the highest and every other at one of its own. A
    teacher "largest" is the largest network as the first phase left it; "in place" is the largest
    network of the same step. `epochs` include the warm-up.
    """

    name: str
    epochs: int
    warmup_epochs: float
    learning_rate: float
    kernels: int
    expands: int
    depths: int
    subnets: int
    ends: bool = False
    teacher: Teacher = "largest"
    sort_channels: bool = False
    resolutions: Literal["step", "each"] = "step"

    def rate(self, progress: float) -> float:
        """Learning rate at `progress` epochs: linear warm-up, then half a cosine down to zero."""
        if progress < self.warmup_epochs:
            return self.learning_rate * (progress + 1e-3) / self.warmup_epochs
        share = (progress - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1e-9)
        return float(self.learning_rate * 0.5 * (1 + np.cos(np.pi * min(share, 1.0))))

    def archs(self, space: ArchSpace, seed: tuple[int, ...]) -> tuple[Arch, ...]:
        """The subnets of one step, the largest first where the ends are trained.

        `seed` decides.
        """
        rng = np.random.default_rng(seed)
        common = int(rng.choice(space.resolutions))
        each = self.resolutions == "each"

        def resolution() -> int:
            return int(rng.choice(space.resolutions)) if each else common

        drawn = [self._draw(space, rng, resolution()) for _ in range(self.subnets)]
        if not self.ends:
            return tuple(drawn)
        smallest = space.uniform(
            kernel=space.kernels[-self.kernels],
            expand=space.expands[-self.expands],
            depth=space.depths[-self.depths],
            resolution=resolution(),
        )
        return (space.largest(space.resolutions[-1] if each else common), smallest, *drawn)

    def _draw(self, space: ArchSpace, rng: np.random.Generator, resolution: int) -> Arch:
        return space.arch(
            rng.choice(space.kernels[-self.kernels :], space.blocks).tolist(),
            rng.choice(space.expands[-self.expands :], space.blocks).tolist(),
            rng.choice(space.depths[-self.depths :], len(space.stages)).tolist(),
            resolution,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Everything that decides a training run but the data and the space."""

    recipe: str
    phases: tuple[Phase, ...]
    batch: int = 64
    seed: int = 0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    label_smoothing: float = 0.1
    ema_decay: float = 0.0
    flip: bool = True
    shift: int = 2
    erase: float = 0.0
    crop: float = 0.0
    """Least share of a picture's area that a random crop keeps; 0 for no crops."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if not self.phases:
            raise BudgetError("a recipe needs at least one phase")
        for phase in self.phases:
            if not 1 <= phase.epochs <= MAX_EPOCHS:
                raise BudgetError(
                    f"phase {phase.name} must have 1 to {MAX_EPOCHS} epochs, got {phase.epochs}"
                )
        if not 2 <= self.batch <= 1 << 16:
            raise BudgetError(f"a batch must hold 2 to 65536 images, got {self.batch}")
        if not 0 <= self.ema_decay < 1:
            raise BudgetError(f"the EMA decay must be from 0 to below 1, got {self.ema_decay}")

    @property
    def epochs(self) -> int:
        """Epochs of all phases."""
        return sum(phase.epochs for phase in self.phases)

    def digest(self) -> str:
        """A name for this configuration: a run continues only under the same one."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def sandwich(space: ArchSpace, epochs: int, learning_rate: float) -> tuple[Phase, ...]:
    """One phase with everything open: largest, smallest and two random subnets in each step.

    The largest sees the images at the highest resolution, as in BigNAS (section 3.2), so that the
    teacher is the best there is.
    """
    return (
        Phase(
            name="sandwich",
            epochs=epochs,
            warmup_epochs=min(2.0, epochs / 10),
            learning_rate=learning_rate,
            kernels=len(space.kernels),
            expands=len(space.expands),
            depths=len(space.depths),
            subnets=2,
            ends=True,
            teacher="in place",
            resolutions="each",
        ),
    )


# Name, epochs and learning rate of the published schedule, and subnets of a step. Rates are shares
# of the first phase's.
_PUBLISHED = (
    ("largest", 180, 1.0, 1),
    ("kernel", 125, 0.96 / 2.6, 1),
    ("depth-1", 25, 0.08 / 2.6, 2),
    ("depth-2", 125, 0.24 / 2.6, 2),
    ("width-1", 25, 0.08 / 2.6, 4),
    ("width-2", 125, 0.24 / 2.6, 4),
)


def progressive(space: ArchSpace, epochs: int, learning_rate: float) -> tuple[Phase, ...]:
    """Progressive shrinking, the published epochs scaled to `epochs` in all (6 at least).

    Kernel sizes open at once, depths and expand ratios one choice after the other in two steps;
    channels are sorted by importance before each width phase, and the largest network of the
    first phase teaches all others.
    """
    if epochs < len(_PUBLISHED):
        raise BudgetError(
            f"progressive shrinking needs at least {len(_PUBLISHED)} epochs, got {epochs}",
            hint="give more --epochs, or --recipe sandwich",
        )
    shares = _shares([epochs for _, epochs, _, _ in _PUBLISHED], epochs)
    kernels, expands, depths = len(space.kernels), len(space.expands), len(space.depths)
    opened = {
        "largest": (1, 1, 1),
        "kernel": (kernels, 1, 1),
        "depth-1": (kernels, 1, min(2, depths)),
        "depth-2": (kernels, 1, depths),
        "width-1": (kernels, min(2, expands), depths),
        "width-2": (kernels, expands, depths),
    }
    return tuple(
        Phase(
            name=name,
            epochs=share,
            warmup_epochs=min(2.0, share / 10),
            learning_rate=learning_rate * factor,
            kernels=opened[name][0],
            expands=opened[name][1],
            depths=opened[name][2],
            subnets=subnets,
            teacher="none" if name == "largest" else "largest",
            sort_channels=name.startswith("width"),
        )
        for (name, _, factor, subnets), share in zip(_PUBLISHED, shares, strict=True)
    )


RECIPES: dict[str, Callable[[ArchSpace, int, float], tuple[Phase, ...]]] = {
    "sandwich": sandwich,
    "progressive": progressive,
}


def _shares(weights: list[int], total: int) -> list[int]:
    """Whole numbers of at least one, about proportional to `weights`, that add up to `total`."""
    spare = total - len(weights)
    exact = [spare * weight / sum(weights) for weight in weights]
    shares = [int(value) for value in exact]
    rest = sorted(range(len(weights)), key=lambda i: shares[i] - exact[i])
    for index in rest[: spare - sum(shares)]:
        shares[index] += 1
    return [1 + share for share in shares]
