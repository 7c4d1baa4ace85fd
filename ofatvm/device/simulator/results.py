"""Simulated latencies, kept: they depend on nothing but code, machine and tools."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ofatvm.device.simulator.cache import NONSENSE, CacheFile, checked
from ofatvm.device.simulator.cost import StepCost

TABLE = "results (key text primary key, costs text)"


class Results:
    """Costs of steps by a key, in a file that several processes may use at once."""

    def __init__(self, folder: Path) -> None:
        """The file is `results.sqlite` in the folder."""
        self._file = CacheFile(folder / "results.sqlite", TABLE)
        with self._file.opened():
            pass

    def get(self, keys: Sequence[str]) -> dict[str, list[StepCost]]:
        """The costs of those keys that are known; a damaged one is not."""
        with self._file.opened() as database:
            rows = [
                database.execute("select key, costs from results where key = ?", (key,)).fetchone()
                for key in keys
            ]
        found: dict[str, list[StepCost]] = {}
        for key, costs in filter(None, rows):
            with contextlib.suppress(*NONSENSE):
                found[key] = [_cost(**cost) for cost in json.loads(costs)]
        return found

    def put(self, found: Mapping[str, Sequence[StepCost]]) -> None:
        """Keep costs; they are on disk when this returns."""
        rows = [(key, json.dumps([asdict(cost) for cost in costs])) for key, costs in found.items()]
        with self._file.opened() as database:
            database.executemany("insert or replace into results values (?, ?)", rows)


def _cost(
    compute_cycles: object, memory_cycles: object, instructions: int, mix: Mapping[str, int]
) -> StepCost:
    counts = {str(name): int(count) for name, count in mix.items()}
    return StepCost(checked(compute_cycles), checked(memory_cycles), int(instructions), counts)
