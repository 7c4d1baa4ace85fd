"""Compiled subnets against the runtimes users would pick instead, all in one run.

Ten subnets of the default space (five of a measured front, five random, in `runtime_subnets.json`)
and MobileNetV3-Large, with the same weights and inputs for all. Every contestant has a process of
its own, and all but the one on visit are idle. Outputs are compared first. A round visits all
networks in random order, and each with all contestants in random order; ratios are taken within a
round. Run it on a quiet machine:

    .venv/bin/pip install --no-deps -r requirements-bench.lock
    .venv/bin/python benchmarks/runtimes.py
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pickle
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from contestants import CONTESTANTS, base_name, model_file, serve
from race_figures import OURS, paid_after, print_table, print_versions, summarise
from race_subnets import write_subnets
from relay_process import RelayProcess

from ofatvm.paths import data_dir
from ofatvm.spaces import OFA_SPACE, parse_arch
from ofatvm.tuning.energy import this_machine

HERE = Path(__file__).resolve().parent
SUBNETS = HERE / "runtime_subnets.json"
RESULT = HERE / "results" / "runtimes.json"
LARGE = "MobileNetV3-Large"
TOLERANCE = 1e-4
WEIGHT_SEED = 0


@dataclass(frozen=True, slots=True)
class Network:
    """A network's files, and what of its compute has tuning records for each of our targets."""

    name: str
    arch: str
    origin: str
    macs: int
    folder: Path
    coverage: dict[str, float] = field(default_factory=dict, hash=False)


@dataclass(slots=True)
class Child:
    """A contestant's process and the pipe to it."""

    name: str
    process: Any
    pipe: Any
    trouble: str = ""

    def ask(self, *command: object) -> Any:
        """Send a command and wait for the answer; a process that dies is out of the race."""
        try:
            self.pipe.send(command)
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            self.trouble = f"its process ended with code {self.process.exitcode} at {command[0]}"
            return None

    def stop(self) -> None:
        """Hang up; the process ends by itself."""
        self.pipe.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()


def main() -> None:
    """Prepare the networks, race, print the tables, write the figures."""
    options = parse_options()
    if options.write_subnets:
        write_subnets(options.write_subnets, SUBNETS)
        return
    targets = options.targets.split(",")
    with tempfile.TemporaryDirectory(prefix="ofatvm-runtimes-") as name:
        folder = Path(name)
        networks = prepare_networks(folder, options)
        tuning = {
            threads: add_modules(networks, targets, threads, options.workspace)
            for threads in options.threads
        }
        result: dict[str, Any] = {
            "schema": 1,
            "machine": machine(),
            "protocol": {
                name: getattr(options, name)
                for name in ("processes", "rounds", "warm_up_ms", "block_ms", "gap_ms", "seed")
            },
            "networks": {
                net.name: {
                    "arch": net.arch,
                    "origin": net.origin,
                    "macs": net.macs,
                    "coverage": net.coverage,
                }
                for net in networks
            },
            "threads": {},
        }
        for threads in options.threads:
            names = [OURS, *(f"{OURS} ({other})" for other in tuning[threads]["targets"][1:])]
            names += [name for name in options.contestants.split(",") if name]
            unknown = {base_name(name) for name in names} - set(CONTESTANTS)
            if unknown:
                raise SystemExit(f"unknown contestants: {sorted(unknown)}")
            race = run_race(networks, names, threads, options)
            figures = summarise(race, options.seed)
            figures["tuning"] = tuning[threads]
            figures["paid_after"] = paid_after(figures, tuning[threads]["wall_s"])
            result["threads"][str(threads)] = figures
            print_table(result["networks"], figures, threads)
    print_versions(result)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written to {options.out}")


def parse_options() -> argparse.Namespace:
    rivals = ",".join(name for name in CONTESTANTS if name not in (OURS, "Relay"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--targets", default="host,x86-64-v3", help="ours; the first is the ratio's"
    )
    parser.add_argument(
        "--contestants",
        default=rivals,
        help=f"default {rivals}; `torch.compile (max-autotune)` compiles for an hour",
    )
    parser.add_argument("--networks", default="", help="only these names, with commas")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=7, help="per process")
    parser.add_argument("--warm-up-ms", type=float, default=30)
    parser.add_argument("--block-ms", type=float, default=100)
    parser.add_argument("--gap-ms", type=float, default=250, help="until the last pool sleeps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workspace", type=Path, default=Path(".ofatvm/benchmark"))
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument(
        "--write-subnets", type=Path, metavar="WORKSPACE", help="take the front of its searches"
    )
    return parser.parse_args()


def prepare_networks(folder: Path, options: argparse.Namespace) -> list[Network]:
    """Write every network's input, weights, ONNX model and exact output."""
    import onnx
    from mobilenet_v3 import mobilenet_v3_large, random_weights
    from onnx_model import onnx_model
    from torch_model import exact_output

    from ofatvm.graph import operator_graph, operators, totals
    from ofatvm.supernet.numpy_io import subnet_weights

    listed = json.loads(SUBNETS.read_text(encoding="utf-8"))["networks"]
    listed.append({"name": LARGE, "arch": "", "origin": "arXiv 1905.02244, 224 x 224"})
    wanted = options.networks.split(",") if options.networks else [n["name"] for n in listed]
    networks = []
    for entry in (entry for entry in listed if entry["name"] in wanted):
        if entry["arch"]:
            arch = parse_arch(entry["arch"])
            graph = operator_graph(arch)
            weights = subnet_weights(arch, weights=None, seed=WEIGHT_SEED).folded
        else:
            graph = mobilenet_v3_large()
            weights = random_weights(graph, WEIGHT_SEED)
        own = folder / entry["name"]
        own.mkdir()
        shape = operators(graph)["input"].out_shape
        image = np.random.default_rng(options.seed).standard_normal(shape, dtype=np.float32)
        np.save(own / "input.npy", image)
        np.save(own / "expected.npy", exact_output(graph, weights, image))
        onnx.save(onnx_model(graph, weights), own / "model.onnx")
        (own / "network.pickle").write_bytes(pickle.dumps((graph, weights)))
        macs = totals(graph).macs
        networks.append(Network(entry["name"], entry["arch"], entry["origin"], macs, own))
    if not networks:
        raise SystemExit(f"no network of that name; there are {[n['name'] for n in listed]}")
    return networks


def add_modules(
    networks: Sequence[Network], targets: Sequence[str], threads: int, workspace: Path
) -> dict[str, Any]:
    """Compile every network for our targets; says which were used, and what tuning them took."""
    from ofatvm.compiler.plan import kernel_calls
    from ofatvm.compiler.relax import build_model
    from ofatvm.pipeline.device_choice import runs_here
    from ofatvm.pipeline.setup import prepare
    from ofatvm.tuning.ledger import read_ledger

    used: dict[str, str] = {}
    facts: dict[str, Any] = {"targets": []}
    for text in targets:
        with prepare(
            text, space_name=OFA_SPACE, resolution=224, workspace=workspace, threads=threads
        ) as setup:
            if not runs_here(setup.target) or setup.target.fingerprint in used:
                continue
            used[setup.target.fingerprint] = text
            for net in networks:
                graph, weights = pickle.loads((net.folder / "network.pickle").read_bytes())
                calls = kernel_calls(graph)
                kernels = setup.library.require(call.workload for call in calls)
                path = net.folder / model_file(text, threads)
                build_model(graph, kernels, weights, setup.target, path)
                done = sum(c.workload.macs for c in calls if kernels[c.workload].tuned)
                net.coverage[text] = round(done / net.macs, 4)
            if not facts["targets"]:
                folders = [name for name, count in setup.records.sources.items() if count]
                ledgers = [read_ledger(data_dir("tuning_logs") / name) for name in folders]
                facts |= {
                    "target": setup.target.to_dict(),
                    "records": setup.records.sources,
                    "trials": sum(ledger.trials for ledger in ledgers),
                    "wall_s": round(sum(ledger.wall_s for ledger in ledgers), 1),
                }
            facts["targets"].append(text)
    if not facts["targets"] or facts["targets"][0] != targets[0]:
        raise SystemExit(f"code for {targets[0]} does not run on this machine")
    return facts


def run_race(
    networks: Sequence[Network], names: Sequence[str], threads: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Visits in several sets of fresh processes: (process, round, network, contestant) -> ms."""
    rng = np.random.default_rng([options.seed, threads])
    race: dict[str, Any] = {"visits": [], "contestants": {}, "disqualified": {}}
    for number in range(options.processes):
        children = [start(name, threads) for name in names]
        try:
            running = [child for child in children if enter(child, networks, race)]
            if OURS not in [child.name for child in running]:
                raise SystemExit(f"ofatvm is out: {race['disqualified'].get(OURS)}")
            for round_number in range(options.rounds):
                for n in rng.permutation(len(networks)):
                    for c in rng.permutation(len(running)):
                        child = running[c]
                        if child.trouble:
                            continue
                        time.sleep(options.gap_ms / 1e3)
                        seconds = child.ask(
                            "visit", int(n), options.warm_up_ms / 1e3, options.block_ms / 1e3
                        )
                        if seconds is None:
                            race["disqualified"][child.name] = child.trouble
                            continue
                        place = (number, round_number, networks[n].name, child.name)
                        race["visits"].append((*place, seconds * 1e3))
                done = number * options.rounds + round_number + 1
                print(f"{threads} threads: round {done} of {options.processes * options.rounds}")
        finally:
            for child in children:
                child.stop()
    return race


def start(name: str, threads: int) -> Child:
    """A contestant's process, with its number of threads in every variable that says it."""
    for variable in ("OMP_NUM_THREADS", "TVM_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    if base_name(name) == "Relay":
        relay = RelayProcess(name, threads, theirs)
        theirs.close()
        return Child(name, relay, ours)
    process = context.Process(target=serve, args=(theirs, name, threads), daemon=True)
    process.start()
    theirs.close()
    return Child(name, process, ours)


def enter(child: Child, networks: Sequence[Network], race: dict[str, Any]) -> bool:
    """Load all networks and compare their outputs; whether the contestant may run."""
    try:
        setting, versions = child.pipe.recv()
    except EOFError:
        child.process.join()
        race["disqualified"][child.name] = f"it does not start (code {child.process.exitcode})"
        return False
    notes = race["contestants"].setdefault(
        child.name, {"setting": setting, "versions": versions, "choices": {}, "difference": 0.0}
    )
    began = time.perf_counter()
    for number, net in enumerate(networks):
        choice = child.ask("load", str(net.folder))
        output = None if child.trouble else child.ask("output", number)
        if output is None:
            race["disqualified"][child.name] = f"{net.name}: {child.trouble}"
            return False
        expected = np.load(net.folder / "expected.npy")
        difference = float(np.abs(output - expected).max() / np.abs(expected).max())
        notes["difference"] = max(notes["difference"], difference)
        if choice:
            counts = notes["choices"]
            counts[choice] = counts.get(choice, 0) + 1
        if not difference <= TOLERANCE:
            race["disqualified"][child.name] = f"{net.name}: output differs by {difference:.1e}"
            return False
    seconds = time.perf_counter() - began
    print(f"{child.name}: {len(networks)} networks loaded in {seconds:.0f} s")
    return True


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return this_machine() | {
        "system": platform.platform(),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
