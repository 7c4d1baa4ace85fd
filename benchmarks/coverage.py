"""Tuned compute of random subnets: with the shipped records, and with nothing but earlier subnets.

First, 100 random subnets against the shipped records: the share of each one's compute (by MACs)
whose kernels have records; no trial is made. Second, without tuning the space: what share of the
n-th random subnet's compute was tuned already for the n-1 subnets before it. Nothing is measured.

    .venv/bin/python benchmarks/coverage.py [--target x86-64-v3]
"""

from __future__ import annotations

import argparse
import json
from importlib import metadata
from pathlib import Path

import numpy as np

from ofatvm.arch import ArchSpace
from ofatvm.compiler.isa import vector_unit
from ofatvm.files import replace_file
from ofatvm.paths import data_dir
from ofatvm.pipeline.setup import resolve_target
from ofatvm.spaces import OFA_SPACE, find_space
from ofatvm.tuning.records import find_records
from ofatvm.tuning.workloads import coverage, subnet_workloads

PLACES = (1, 2, 5, 10, 20)


def with_records(space: ArchSpace, count: int, seed: int, tuned: set[str]) -> dict[str, object]:
    """Coverage of random subnets by the keys in `tuned`."""
    rows = space.sample_rows(np.random.default_rng(seed), count)
    shares = [coverage(subnet_workloads(arch), tuned) for arch in space.from_rows(rows)]
    return {
        "subnets": count,
        "trials": 0,
        "coverage_min": min(shares),
        "coverage_mean": float(np.mean(shares)),
        "fully_covered": sum(share == 1.0 for share in shares),
    }


def one_after_another(space: ArchSpace, orders: int, seed: int) -> list[dict[str, object]]:
    """Share of the n-th subnet's compute that the n-1 subnets before it hold already."""
    shares: dict[int, list[float]] = {place: [] for place in PLACES}
    for order in range(orders):
        rows = space.sample_rows(np.random.default_rng([seed, order]), max(PLACES))
        tuned: set[str] = set()
        for place, arch in enumerate(space.from_rows(rows), 1):
            uses = subnet_workloads(arch)
            if place in shares:
                shares[place].append(coverage(uses, tuned))
            tuned.update(use.workload.key for use in uses)
    return [
        {
            "n": place,
            "mean": round(float(np.mean(found)), 4),
            "min": round(min(found), 4),
            "max": round(max(found), 4),
        }
        for place, found in shares.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="x86-64-v3")
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--subnets", type=int, default=100)
    parser.add_argument("--orders", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=data_dir("results") / "coverage.json")
    options = parser.parse_args()

    space = find_space(OFA_SPACE).at(options.resolution)
    target = resolve_target(options.target)
    records = find_records(target, [data_dir("tuning_logs")], vector_unit(target))
    shipped = with_records(space, options.subnets, options.seed, set(records.configs))
    successive = one_after_another(space, options.orders, options.seed)
    content = {
        "schema": 1,
        "space": space.name,
        "resolution": options.resolution,
        "seed": options.seed,
        "target": target.name,
        "records": records.sources,
        "shipped_records": shipped,
        "orders": options.orders,
        "without_space_tuning": successive,
        "versions": {name: metadata.version(name) for name in ("ofatvm", "numpy")},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(options.out, (json.dumps(content, indent=1) + "\n").encode())

    sources = ", ".join(f"{count} of {name}" for name, count in records.sources.items())
    print(f"{options.subnets} random subnets at {options.resolution}, shipped records ({sources}):")
    print(
        f"  coverage min {shipped['coverage_min']:.1%}, mean {shipped['coverage_mean']:.1%}, "
        f"{shipped['fully_covered']} fully covered, {shipped['trials']} trials"
    )
    print(f"already tuned share of the n-th random subnet's compute, {options.orders} orders:")
    print("   n    mean            range")
    for row in successive:
        print(f"  {row['n']:2}  {row['mean']:6.1%}  {row['min']:6.1%} - {row['max']:6.1%}")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
