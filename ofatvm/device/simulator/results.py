"""Simulated latencies, kept: they depend on nothing but code, machine and tools."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from ofatvm.device.simulator.cache import cache_errors
from ofatvm.device.simulator.cost import StepCost


class Results:
    """Costs of steps by a key, in a file that several processes may use at once."""

    def __init__(self, folder: Path) -> None:
        """The file is `results.sqlite` in the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "results.sqlite"
        with cache_errors(self._path), closing(self._open()) as database:
            database.execute("pragma journal_mode=wal")
            database.execute(
                "create table if not exists results (key text primary key, costs text)"
            )

    def get(self, keys: Sequence[str]) -> dict[str, list[StepCost]]:
        """The costs of those keys that are known."""
        with cache_errors(self._path), closing(self._open()) as database:
            rows = [
                database.execute("select key, costs from results where key = ?", (key,)).fetchone()
                for key in keys
            ]
        return {row[0]: [StepCost(**cost) for cost in json.loads(row[1])] for row in rows if row}

    def put(self, found: Mapping[str, Sequence[StepCost]]) -> None:
        """Keep costs; they are on disk when this returns."""
        rows = [(key, json.dumps([asdict(cost) for cost in costs])) for key, costs in found.items()]
        with cache_errors(self._path), closing(self._open()) as database, database:
            database.executemany("insert or replace into results values (?, ?)", rows)

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=60)
        database.execute("pragma synchronous=full")
        return database
