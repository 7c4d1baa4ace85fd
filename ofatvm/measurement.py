"""A latency that was measured or simulated, with everything needed to judge it later."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, get_args

from ofatvm.errors import MeasurementError

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["measured", "simulated"]
MAX_SEED = 2**63 - 1


def now() -> str:
    """The time in ISO form, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def check_finite(outputs: np.ndarray, network: str, *, hint: str = "") -> None:
    """MeasurementError unless a network's outputs (n, ...) are numbers: NaN would be a class."""
    import numpy as np

    wrong = int((~np.isfinite(outputs)).reshape(len(outputs), -1).any(axis=1).sum())
    if wrong:
        raise MeasurementError(
            f"the output of {network} is not finite for {wrong:,} of {len(outputs):,} inputs",
            hint=hint,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The latency of one architecture on one device, from all of its visits.

    `arch` is the encoded architecture, `space` its space's name, `target` a target fingerprint and
    `library` the digest of the kernel library. `source` says what it was for: search, profile or
    final. `latency_ms` is the median over visits, whose own medians are `samples_ms`; it is None
    exactly when `error` says why there is none. `calibration_ratio` is how much slower than its
    reference the yardstick ran beside it.
    """

    arch: str
    space: str
    target: str
    device: str
    kind: Kind
    threads: int
    source: str
    latency_ms: float | None = None
    p90_ms: float | None = None
    ci_low_ms: float | None = None
    ci_high_ms: float | None = None
    samples_ms: tuple[float, ...] = ()
    unstable: bool = False
    calibration_ratio: float | None = None
    library: str = ""
    versions: dict[str, str] = field(default_factory=dict, hash=False)
    error: str = ""
    when: str = field(default_factory=now)
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no device could have answered."""
        for name in ("arch", "space", "target", "device", "source"):
            if not getattr(self, name):
                raise MeasurementError(f"a measurement needs a {name}, got an empty string")
        if self.kind not in get_args(Kind):
            raise MeasurementError(f"kind must be one of {get_args(Kind)}, got {self.kind!r}")
        if self.threads < 1:
            raise MeasurementError(f"threads must be >= 1, got {self.threads}")
        if (self.latency_ms is None) != bool(self.error):
            raise MeasurementError(
                f"a measurement has either a latency or an error, got latency_ms="
                f"{self.latency_ms} and error={self.error!r}"
            )
        numbers = {
            name: getattr(self, name)
            for name in ("latency_ms", "p90_ms", "ci_low_ms", "ci_high_ms", "calibration_ratio")
        }
        numbers |= {f"samples_ms[{i}]": sample for i, sample in enumerate(self.samples_ms)}
        for name, value in numbers.items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise MeasurementError(f"{name} must be positive and finite, got {value}")
        if (self.ci_low_ms is None) != (self.ci_high_ms is None):
            raise MeasurementError("a confidence interval needs both ends")
        if self.ci_low_ms is not None and self.ci_high_ms is not None:
            self._check_interval(self.ci_low_ms, self.ci_high_ms)
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise MeasurementError(f"seed must be 0 to 2**63-1, got {self.seed}")
        self._check_time()

    def _check_interval(self, low: float, high: float) -> None:
        if low > high:
            raise MeasurementError(f"ci_low_ms {low} is above ci_high_ms {high}")

    def _check_time(self) -> None:
        try:
            when = datetime.fromisoformat(self.when)
        except ValueError:
            raise MeasurementError(f"when must be an ISO time, got {self.when!r}") from None
        if when.utcoffset() is None:
            raise MeasurementError(f"when must name its offset from UTC, got {self.when!r}")
