"""Which subnets race: five of a measured front and five drawn at random."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ofatvm.spaces import OFA_SPACE, find_space

RANDOM_SEED, RANDOM_COUNT, FRONT_COUNT = 2026, 5, 5


def write_subnets(workspace: Path, path: Path) -> None:
    """List subnets spread over a workspace's measured front, and seeded random ones."""
    from ofatvm.pipeline.setup import resolve_target
    from ofatvm.predict.accuracy import find_accuracy_model
    from ofatvm.search.pareto import front
    from ofatvm.store import Store

    space = find_space(OFA_SPACE).at(224)
    target = resolve_target("host")
    with Store.open(workspace) as store:
        held = store.measurements(
            target=target.fingerprint, space=space.name, threads=target.threads, source="final"
        )
    latest = {m.arch: m.latency_ms for m in held if m.latency_ms is not None}
    archs = [space.parse(text) for text in latest]
    if len(archs) < FRONT_COUNT:
        raise SystemExit(f"{workspace} has {len(archs)} final measurements: search first")
    top1 = find_accuracy_model(space).predict(space.to_rows(archs))
    costs = np.stack([np.array(list(latest.values())), -top1], axis=1)
    best = front(costs)
    best = best[np.argsort(costs[best, 0])]
    spread = np.unique(np.linspace(0, len(best) - 1, FRONT_COUNT).round().astype(int))
    networks = [
        {
            "name": f"front-{number}",
            "arch": archs[i].encode(),
            "origin": f"measured front of a search on {target.name}, {target.threads} threads: "
            f"{costs[i, 0]:.3f} ms, {-costs[i, 1]:.2f} % predicted top-1",
        }
        for number, i in enumerate(best[spread], 1)
    ]
    save_subnets(networks, path)


def save_subnets(networks: list[dict[str, str]], path: Path) -> None:
    """Write the list, the random subnets after those given."""
    space = find_space(OFA_SPACE).at(224)
    rows = space.sample_rows(np.random.default_rng(RANDOM_SEED), RANDOM_COUNT)
    networks += [
        {
            "name": f"random-{number}",
            "arch": arch.encode(),
            "origin": f"uniformly random, seed {RANDOM_SEED}",
        }
        for number, arch in enumerate(space.from_rows(rows), 1)
    ]
    text = json.dumps({"schema": 1, "networks": networks}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
