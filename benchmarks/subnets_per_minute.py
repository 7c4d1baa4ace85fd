"""Subnets built and measured a minute: kernel library against a plain compilation of each subnet.

Both roads build and measure the same seeded subnets in one run, in turn, with the same schedules
and the same measuring protocol. The plain road keeps nothing: for every subnet it compiles all of
its kernels anew, in the same worker processes, into a folder that is empty at first, and then its
program. The library's one-time compilation is counted and shown apart.

    .venv/bin/python benchmarks/subnets_per_minute.py
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np

from ofatvm.arch import Arch
from ofatvm.compiler.kernels import KernelLibrary
from ofatvm.compiler.relax import Program, build_program
from ofatvm.device.timing import SAMPLE
from ofatvm.graph import operator_graph
from ofatvm.pipeline.devices import open_device
from ofatvm.pipeline.measure import compile_space, programs_for
from ofatvm.pipeline.setup import Setup, prepare
from ofatvm.spaces import OFA_SPACE
from ofatvm.store import Store


def main() -> None:
    """Time both roads on the same subnets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="host")
    parser.add_argument("--count", type=int, default=24, help="subnets by the library")
    parser.add_argument("--plain", type=int, default=4, help="of these, also by the plain road")
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        prepare(
            options.target, space_name=OFA_SPACE, resolution=224, workspace=Path(folder)
        ) as setup,
        Store.open(Path(folder)) as store,
    ):
        setup.executor.submit(int).result()
        started = time.perf_counter()
        compile_space(setup)
        library_s = time.perf_counter() - started
        rng = np.random.default_rng(options.seed)
        archs = setup.space.from_rows(setup.space.sample_rows(rng, options.count))
        with open_device(setup, store) as device:
            device.check()
            ours, plain, ratios = [], [], []
            step = max(1, options.count // max(1, options.plain))
            for start in range(0, options.count, step):
                group = archs[start : start + step]
                began = time.perf_counter()
                fast = device.measure(programs_for(setup, group), SAMPLE, seed=0)
                ours.append((time.perf_counter() - began) / len(group))
                if len(plain) >= options.plain:
                    continue
                empty = Path(folder) / f"plain-{len(plain)}"
                began = time.perf_counter()
                slow = device.measure([plain_program(setup, group[0], empty)], SAMPLE, seed=0)
                plain.append(time.perf_counter() - began)
                if isinstance(fast[0], str) or isinstance(slow[0], str):
                    raise SystemExit(f"a subnet failed: {fast[0]} / {slow[0]}")
                ratios.append(fast[0].latency_ms / slow[0].latency_ms)
    print(
        json.dumps(
            {
                "subnets": options.count,
                "library_compile_once_s": round(library_s, 1),
                "library_per_minute": per_minute(ours),
                "plain_per_minute": per_minute(plain),
                "ratio_of_medians": round(float(np.median(plain) / np.median(ours)), 1),
                "latency_library_over_plain": [round(r, 3) for r in sorted(ratios)],
                "versions": {n: metadata.version(n) for n in ("ofatvm", "apache-tvm")},
            },
            indent=1,
        )
    )


def per_minute(seconds: list[float]) -> dict[str, float]:
    """Minimum, median and maximum of 60 / seconds."""
    rates = [60 / second for second in sorted(seconds, reverse=True)]
    return {
        "min": round(rates[0], 1),
        "median": round(float(np.median(rates)), 1),
        "max": round(rates[-1], 1),
    }


def plain_program(setup: Setup, arch: Arch, folder: Path) -> Program:
    """The subnet's program over a kernel library that is empty at first; `folder` is new."""
    graph = operator_graph(arch)
    library = KernelLibrary(folder, setup.target, setup.unit, setup.records.configs, setup.executor)
    kernels = library.require(setup.workloads([arch]))
    path = folder / "network.so"
    return setup.executor.submit(build_program, graph, kernels, setup.target, path).result()


if __name__ == "__main__":
    main()
