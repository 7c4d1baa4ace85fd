"""Budgets: what an architecture may cost at most, and must reach at least."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofatvm.errors import BudgetError
from ofatvm.predict.features import SpaceTables

MEGABYTE = 1e6


@dataclass(frozen=True, slots=True)
class Budget:
    """Any of the limits may be None. Sizes are decimal megabytes, accuracy is percent."""

    latency_ms: float | None = None
    macs: float | None = None
    size_mb: float | None = None
    peak_memory_mb: float | None = None
    min_accuracy: float | None = None

    def __post_init__(self) -> None:
        """Limits are positive and finite, an accuracy at most 100."""
        for name, value in self.limits().items():
            if not 0 < value < float("inf"):
                raise BudgetError(f"{name} must be positive and finite, got {value}")
        if self.min_accuracy is not None and self.min_accuracy > 100:
            raise BudgetError(f"min_accuracy is a percentage, got {self.min_accuracy}")

    def limits(self) -> dict[str, float]:
        """The limits that are set, by name."""
        every = {name: getattr(self, name) for name in self.__slots__}
        return {name: float(value) for name, value in every.items() if value is not None}

    @property
    def accuracy_alone(self) -> bool:
        """Whether the fastest is asked for that reaches an accuracy, and nothing else."""
        return self.limits().keys() == {"min_accuracy"}

    def violation(
        self,
        rows: np.ndarray,
        tables: SpaceTables,
        latency_ms: np.ndarray | None,
        accuracy: np.ndarray | None,
    ) -> np.ndarray:
        """By how much each row (n, row_width) misses the limits: shares of each, summed; (n,).

        Limits on what is not given (`latency_ms`, `accuracy`, both (n,)) are left out.
        """
        total = np.zeros(len(rows))
        upper = (
            (self.latency_ms, lambda: latency_ms),
            (self.macs, lambda: tables.macs(rows)),
            (self.size_mb, lambda: tables.weight_bytes(rows) / MEGABYTE),
            (self.peak_memory_mb, lambda: tables.peak_memory_bytes(rows) / MEGABYTE),
        )
        for limit, values in upper:
            if limit is not None and (value := values()) is not None:
                total += np.maximum(0.0, value / limit - 1.0)
        if self.min_accuracy is not None and accuracy is not None:
            total += np.maximum(0.0, 1.0 - accuracy / self.min_accuracy)
        return total
