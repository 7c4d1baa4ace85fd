"""The two roads side by side: the ten subnets of `runtimes.py` and MobileNetV3-Large through Relay.

Relay untuned (its templates' default schedules), Relay tuned (AutoTVM's records of the space),
Relax tuned (ofatvm's own records) and ONNX Runtime race in one run, interleaved as in
`runtimes.py`; beside the latencies stand what compiling a network costs on each road, its file's
size, and what tuning the whole space cost. Run it on a quiet machine, after `make relay` and

    .venv/bin/pip install --no-deps -r requirements-bench.lock
    .venv/bin/ofatvm tune --ir relay --target x86-64-v3 --space mbv3w1.0
    .venv/bin/python benchmarks/relay_vs_relax.py
"""

from __future__ import annotations

import argparse
import json
import pickle
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from contestants import relay_file
from race_figures import OURS, print_table, print_versions, summarise
from runtimes import LARGE, Network, add_modules, machine, prepare_networks, run_race

from ofatvm.compiler.relay import RelayLibrary
from ofatvm.paths import data_dir
from ofatvm.spaces import OFA_SPACE

RESULT = Path(__file__).resolve().parent / "results" / "relay_vs_relax.json"
COLD = 3
"""Networks that are compiled once more by Relax, with an empty kernel library."""
UNTUNED, TUNED = "Relay (untuned)", "Relay (tuned)"


def main() -> None:
    """Compile on both roads, race, print, write the figures."""
    options = parse_options()
    with tempfile.TemporaryDirectory(prefix="ofatvm-roads-") as name:
        networks = prepare_networks(Path(name), options)
        result: dict[str, Any] = {
            "schema": 1,
            "machine": machine(),
            "protocol": {
                name: getattr(options, name)
                for name in ("processes", "rounds", "warm_up_ms", "block_ms", "gap_ms", "seed")
            },
            "networks": {
                net.name: {"arch": net.arch, "macs": net.macs, "coverage": net.coverage}
                for net in networks
            },
            "threads": {},
        }
        # The code is the same for every number of threads.
        costs = compile_costs(networks, options.target, options.threads, options.workspace)
        for threads in options.threads:
            relax = add_modules(networks, [options.target], threads, options.workspace)
            names = [OURS, UNTUNED, TUNED, "ONNX Runtime"]
            figures = summarise(run_race(networks, names, threads, options), options.seed)
            figures["tuning"] = relax
            figures["paid_after"] = dict.fromkeys(figures["ratios"])
            result["threads"][str(threads)] = figures
            print_table(result["networks"], figures, threads)
        result["compile"] = costs
        print_costs(costs, figures)
    print_versions(result)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written to {options.out}")


def compile_costs(
    networks: Sequence[Network], target: str, threads: Sequence[int], workspace: Path
) -> dict[str, Any]:
    """Compile every network through Relay, untuned and tuned; seconds and sizes on both roads.

    Relax compiles a few once more with an empty kernel library, as Relay has none when it ships.
    """
    from ofatvm.compiler.plan import kernel_calls
    from ofatvm.compiler.relax import build_model
    from ofatvm.pipeline.setup import prepare
    from ofatvm.relay.task import task_key
    from ofatvm.tuning.ledger import read_ledger

    rows: dict[str, Any] = {}
    coverage: dict[str, float] = {}
    arguments: dict[str, Any] = {
        "space_name": OFA_SPACE,
        "resolution": 224,
        "workspace": workspace,
    }
    with prepare(target, ir="relay", **arguments) as setup:
        assert setup.relay_pool is not None
        tuned = setup.relay_library
        parts = (setup.target, setup.blocking)
        untuned = RelayLibrary(workspace / "kernels", *parts, {}, setup.relay_pool)
        folders = [name for name, count in setup.relay_records.sources.items() if count]
        ledgers = [read_ledger(data_dir("tuning_logs") / name / "relay") for name in folders]
        for net in networks:
            graph, weights = pickle.loads((net.folder / "network.pickle").read_bytes())
            # Each on a core of its own.
            with ThreadPoolExecutor(2) as pool:
                jobs = {
                    name: pool.submit(build_one, library, name, net, graph, weights, threads)
                    for name, library in (("untuned", untuned), ("tuned", tuned))
                }
            rows[net.name] = {f"Relay ({name})": job.result() for name, job in jobs.items()}
            done = sum(
                call.workload.macs
                for call in kernel_calls(graph)
                if call.workload.is_compute and task_key(call.workload) in tuned.records
            )
            coverage[net.name] = round(done / net.macs, 4)
    for net in networks[:COLD]:
        graph, weights = pickle.loads((net.folder / "network.pickle").read_bytes())
        with (
            tempfile.TemporaryDirectory(prefix="ofatvm-cold-") as folder,
            prepare(target, **arguments | {"workspace": Path(folder)}) as setup,
        ):
            calls = kernel_calls(graph)
            began = time.perf_counter()
            kernels = setup.relax_library.require(call.workload for call in calls)
            path = Path(folder) / "model.so"
            build_model(graph, kernels, weights, setup.target, path)
            rows[net.name][OURS] = {
                "seconds": time.perf_counter() - began,
                "bytes": path.stat().st_size,
            }
    return {
        "networks": rows,
        "relay_coverage": coverage,
        "relay_records": folders,
        "relay_trials": sum(ledger.trials for ledger in ledgers),
        "relay_wall_s": round(sum(ledger.wall_s for ledger in ledgers), 1),
    }


def build_one(
    library: RelayLibrary,
    variant: str,
    net: Network,
    graph: Any,
    weights: Any,
    threads: Sequence[int],
) -> dict[str, float]:
    """Build a network through Relay for all numbers of threads; wall seconds and size."""
    path = net.folder / relay_file(variant, threads[0])
    began = time.perf_counter()
    library.build_model(graph, weights, path)
    seconds = time.perf_counter() - began
    for other in threads[1:]:
        shutil.copyfile(path, net.folder / relay_file(variant, other))
    return {"seconds": seconds, "bytes": path.stat().st_size}


def print_costs(costs: dict[str, Any], figures: dict[str, Any]) -> None:
    """Medians of compile times and sizes, and what tuning the space cost on each road.

    Medians are over the networks that were compiled on both roads.
    """
    both = [row for row in costs["networks"].values() if OURS in row]
    for name in (OURS, UNTUNED, TUNED):
        rows = [row[name] for row in both]
        seconds = np.median([row["seconds"] for row in rows])
        megabytes = np.median([row["bytes"] for row in rows]) / 1e6
        print(f"{name}: compiled in {seconds:.1f} s (median of {len(rows)}), {megabytes:.1f} MB")
    relay = f"{costs['relay_trials']} trials, {costs['relay_wall_s'] / 3600:.2f} h"
    relax = figures["tuning"]
    print(
        f"tuning of the space: Relay {relay}; "
        f"Relax {relax['trials']} trials, {relax['wall_s'] / 3600:.2f} h"
    )


def parse_options() -> argparse.Namespace:
    """The options of a race, with one target."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--target", default="host")
    parser.add_argument("--networks", default="", help=f"only these names; {LARGE} is one")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=7, help="per process")
    parser.add_argument("--warm-up-ms", type=float, default=30)
    parser.add_argument("--block-ms", type=float, default=100)
    parser.add_argument("--gap-ms", type=float, default=250, help="until the last pool sleeps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workspace", type=Path, default=Path(".ofatvm/benchmark"))
    parser.add_argument("--out", type=Path, default=RESULT)
    return parser.parse_args()


if __name__ == "__main__":
    main()
