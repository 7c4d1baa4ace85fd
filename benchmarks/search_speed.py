"""Candidates a second through evolution with both predictors, on one thread.

The accuracy model is the one that ships; the latency model is fitted to 100 subnets with made-up
kernel times, and its trees always take part. Two costs, accuracy and latency, and a latency
budget. Run it on a machine that does nothing else:

    OMP_NUM_THREADS=1 python benchmarks/search_speed.py [--json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from dataclasses import replace
from importlib.metadata import version

import networkx as nx
import numpy as np

from ofatvm.graph import operators
from ofatvm.predict.accuracy import find_accuracy_model
from ofatvm.predict.features import FUSED_KINDS, SpaceTables
from ofatvm.predict.latency import LatencyModel
from ofatvm.search.evolution import Evaluation, evolve
from ofatvm.spaces import OFA_SPACE, find_space

RESOLUTION = 224
TARGET_PER_SECOND = 25_000
GMACS_PER_MS = 0.03


def kernel_ms(graph: nx.DiGraph[str]) -> dict[str, float]:
    """Made-up times: compute, memory traffic and a start-up cost for each kernel."""
    return {
        name: operator.macs / 1e9 / GMACS_PER_MS + operator.out_bytes / 1e7 + 0.002
        for name, operator in operators(graph).items()
        if operator.kind not in FUSED_KINDS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--population", type=int, default=1000)
    parser.add_argument("--generations", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    space = find_space(OFA_SPACE).at(RESOLUTION)
    tables = SpaceTables.build(space, RESOLUTION)
    known = tables.additive(kernel_ms)
    rng = np.random.default_rng(0)
    sample = space.sample_rows(rng, 100)
    measured = (known(sample) * 1.1 + 0.3) * np.exp(rng.normal(0, 0.015, len(sample)))
    latency = LatencyModel.fit(sample, measured, known(sample), space, tables, kernel_ms=known)
    latency = replace(latency, tree_weight=1.0)
    accuracy = find_accuracy_model(space)
    budget_ms = float(np.median(measured))

    def objectives(rows: np.ndarray) -> Evaluation:
        milliseconds = latency.predict(rows, known(rows)).latency_ms
        costs = np.stack([milliseconds, -accuracy.predict(rows)], axis=1)
        return Evaluation(costs, np.maximum(milliseconds / budget_ms - 1, 0))

    rates, front = [], 0
    for repeat in range(options.repeats):
        start = time.perf_counter()
        result = evolve(
            space,
            objectives,
            population=options.population,
            generations=options.generations,
            rng=np.random.default_rng(repeat),
        )
        rates.append(result.evaluated / (time.perf_counter() - start))
        front = len(result.rows)
    figures = {
        "candidates_per_second": {
            "median": round(statistics.median(rates)),
            "min": round(min(rates)),
            "max": round(max(rates)),
        },
        "target": TARGET_PER_SECOND,
        "met": statistics.median(rates) >= TARGET_PER_SECOND,
        "population": options.population,
        "generations": options.generations,
        "repeats": options.repeats,
        "front": front,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "xgboost")},
        },
    }
    if options.json:
        print(json.dumps(figures))
        return
    rate = figures["candidates_per_second"]
    print(
        f"{rate['median']:,} candidates/s (min {rate['min']:,}, max {rate['max']:,}) "
        f"over {options.repeats} runs of {options.generations} x {options.population}"
    )
    print(f"target {TARGET_PER_SECOND:,}: {'met' if figures['met'] else 'missed'}")
    print(", ".join(f"{name} {number}" for name, number in figures["versions"].items()))


if __name__ == "__main__":
    main()
