"""Where a network's time goes: each kernel against this machine's measured peak and bandwidth.

The peak is what independent fused multiply-adds reach on all threads; bandwidths are what reading a
block of second-level-cache size, of 16 MB and of 512 MB reaches. A kernel cannot be faster than the
larger of its MACs at the peak and its bytes at the bandwidth of the smallest block they fit in; the
share of that bound is its efficiency. The network runs colder than its kernels alone do: the gap
between its latency and their sum is printed.

    .venv/bin/python benchmarks/roofline.py --threads 1
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from ofatvm.compiler.link import link_host
from ofatvm.compiler.llvm import compile_ir
from ofatvm.compiler.plan import Workload, kernel_calls
from ofatvm.compiler.program import Step, compile_program
from ofatvm.compiler.relax import build_program
from ofatvm.device.loaded import load_program
from ofatvm.graph import operator_graph
from ofatvm.pipeline.setup import Setup, prepare
from ofatvm.spaces import OFA_SPACE

CHAINS = 24
LOOPS = 2000
BLOCKS_MB = (0.5, 16.0, 512.0)
SAMPLES = 9
SAMPLE_S = 5e-3
NETWORK_CALLS = 300


def main() -> None:
    """Measure the machine, then every kernel of one network, then the network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="host")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--arch", help="[default: drawn with --seed]")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    os.environ["TVM_NUM_THREADS"] = str(options.threads)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    with (
        tempfile.TemporaryDirectory() as folder,
        prepare(
            options.target,
            space_name=OFA_SPACE,
            resolution=224,
            workspace=Path(folder),
            threads=options.threads,
        ) as setup,
    ):
        arch = (
            setup.space.parse(options.arch)
            if options.arch
            else setup.space.sample(np.random.default_rng(options.seed))
        )
        result = profile(setup, arch, Path(folder))
    show(result)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def profile(setup: Setup, arch, folder: Path) -> dict:
    """All figures as one dict; times in microseconds."""
    peak, bandwidths = machine(setup, folder)
    graph = operator_graph(arch)
    calls = kernel_calls(graph)
    kernels = setup.library.require(call.workload for call in calls)
    seconds = {w: best_time(k.path, k.sizes) for w, k in kernels.items()}
    program = build_program(graph, kernels, setup.target, folder / "network.so")
    calls_s = load_program(str(program.path), program.sizes).samples(NETWORK_CALLS)
    network = float(np.median(calls_s))
    rows = []
    for workload, kernel in kernels.items():
        moved = 4 * sum(map(math.prod, workload.argument_shapes))
        bound = max(workload.macs / peak, moved / bandwidth(moved, bandwidths))
        rows.append(
            {
                "kernel": workload.key,
                "calls": sum(call.workload == workload for call in calls),
                "us": round(1e6 * seconds[workload], 2),
                "gmacs_per_s": round(workload.macs / seconds[workload] / 1e9, 1),
                "gbytes_per_s": round(moved / seconds[workload] / 1e9, 1),
                "share_of_bound": round(bound / seconds[workload], 3),
                "tuned": kernel.tuned,
            }
        )
    kinds: dict[str, dict[str, float]] = defaultdict(lambda: {"us": 0.0, "bound_us": 0.0})
    for call in calls:
        row = next(row for row in rows if row["kernel"] == call.workload.key)
        kinds[kind_of(call.workload)]["us"] += row["us"]
        kinds[kind_of(call.workload)]["bound_us"] += row["us"] * row["share_of_bound"]
    return {
        "target": setup.target.name,
        "threads": setup.target.threads,
        "arch": arch.encode(),
        "peak_gmacs_per_s": round(peak / 1e9, 1),
        "bandwidth_gbytes_per_s": {f"{mb:g} MB": round(b / 1e9, 1) for mb, b in bandwidths},
        "network_us": round(1e6 * network, 1),
        "kernels_us": round(sum(kind["us"] for kind in kinds.values()), 1),
        "kinds": kinds,
        "kernels": sorted(rows, key=lambda row: -row["us"] * row["calls"]),
    }


def machine(setup: Setup, folder: Path) -> tuple[float, list[tuple[float, float]]]:
    """Multiply-accumulates a second, and (megabytes, bytes a second) of reading blocks."""
    lanes = setup.unit.lanes
    peak_s = timed(setup, folder, "peak", peak_ir(lanes), weights=1)
    peak = setup.target.threads * LOOPS * CHAINS * lanes / peak_s
    bandwidths = []
    for megabytes in BLOCKS_MB:
        vectors = int(megabytes * 1e6 / 4 / lanes / 8 / setup.target.threads) * 8
        floats = vectors * lanes * setup.target.threads
        seconds = timed(setup, folder, f"read{megabytes:g}", read_ir(lanes, vectors), floats)
        bandwidths.append((megabytes, 4 * floats / seconds))
    return peak, bandwidths


def bandwidth(moved: int, bandwidths: list[tuple[float, float]]) -> float:
    """Bytes a second for so many bytes: that of the smallest block they fit in."""
    return next((b for mb, b in bandwidths if moved <= mb * 1e6), bandwidths[-1][1])


def timed(setup: Setup, folder: Path, name: str, ir: str, weights: int) -> float:
    """Seconds of one call of the function `probe` of a module in LLVM IR, on all threads."""
    from ofatvm.compiler.kernels import entry

    probe, own, path = (folder / f"{name}.{kind}" for kind in ("probe.o", "run.o", "so"))
    compile_ir(ir, setup.target, probe)
    compile_program([Step("probe", True, (("weights", 0), ("out", 0)))], setup.target, own)
    link_host(str(path), [str(entry(setup.target, folder)), str(own), str(probe)])
    return best_time(path, (1, weights, 1, 4096))


def best_time(path: Path, sizes: tuple[int, ...]) -> float:
    """Seconds a call: the least of some samples."""
    return min(load_program(str(path), sizes).blocks(SAMPLES, SAMPLE_S))


def peak_ir(lanes: int) -> str:
    """A probe of LOOPS rounds of CHAINS independent fused multiply-adds of vectors."""
    vector = f"<{lanes} x float>"
    chains = range(CHAINS)
    phis = "\n".join(
        f"  %a{i} = phi {vector} [ zeroinitializer, %entry ], [ %b{i}, %loop ]" for i in chains
    )
    steps = "\n".join(
        f"  %b{i} = call {vector} @llvm.fma({vector} %x, {vector} %y, {vector} %a{i})"
        for i in chains
    )
    return f"""
declare {vector} @llvm.fma({vector}, {vector}, {vector})
define void @probe(i32 %task, i32 %tasks, ptr %weights, ptr %out) {{
entry:
  %x = load {vector}, ptr %out, align 4
  %far = getelementptr float, ptr %out, i64 1024
  %y = load {vector}, ptr %far, align 4
  br label %loop
loop:
  %n = phi i32 [ 0, %entry ], [ %m, %loop ]
{phis}
{steps}
  %m = add i32 %n, 1
  %end = icmp eq i32 %m, {LOOPS}
  br i1 %end, label %done, label %loop
{summed(vector, CHAINS)}"""


def read_ir(lanes: int, vectors: int) -> str:
    """A probe in which each thread reads `vectors` vectors of its own, eight at a time."""
    vector = f"<{lanes} x float>"
    eight = range(8)
    phis = "\n".join(
        f"  %a{i} = phi {vector} [ zeroinitializer, %entry ], [ %b{i}, %loop ]" for i in eight
    )
    steps = "\n".join(
        f"  %p{i} = getelementptr {vector}, ptr %mine, i64 %k{i}\n"
        f"  %v{i} = load {vector}, ptr %p{i}, align 4\n"
        f"  %b{i} = fadd {vector} %a{i}, %v{i}"
        for i in eight
    )
    indices = "\n".join(f"  %k{i} = add i64 %n, {i}" for i in eight)
    return f"""
define void @probe(i32 %task, i32 %tasks, ptr %weights, ptr %out) {{
entry:
  %wide = sext i32 %task to i64
  %first = mul i64 %wide, {vectors}
  %mine = getelementptr {vector}, ptr %weights, i64 %first
  br label %loop
loop:
  %n = phi i64 [ 0, %entry ], [ %m, %loop ]
{phis}
{indices}
{steps}
  %m = add i64 %n, 8
  %end = icmp sge i64 %m, {vectors}
  br i1 %end, label %done, label %loop
{summed(vector, 8)}"""


def summed(vector: str, count: int) -> str:
    """The end of a probe: the sum of its vectors is stored, so that none is optimised away."""
    sums = "\n".join(
        f"  %s{i} = fadd {vector} {'%b0' if i == 1 else f'%s{i - 1}'}, %b{i}"
        for i in range(1, count)
    )
    return f"""done:
{sums}
  %slot = mul i32 %task, 64
  %at = add i32 %slot, 2048
  %to = getelementptr float, ptr %out, i32 %at
  store {vector} %s{count - 1}, ptr %to, align 4
  ret void
}}
"""


def kind_of(workload: Workload) -> str:
    """Kernels of one kind are added up; the head's dense layers apart from squeeze-excite's."""
    large = workload.kind == "dense" and workload.macs > 1_000_000
    return "dense (head)" if large else workload.kind


def show(result: dict) -> None:
    """Print a table for 80 columns."""
    print(f"{result['target']}, {result['threads']} threads, {result['arch']}")
    print(f"peak {result['peak_gmacs_per_s']} GMAC/s; reading:", end="")
    print(", ".join(f" {b} GB/s at {mb}" for mb, b in result["bandwidth_gbytes_per_s"].items()))
    print(f"{'kernel':44} {'calls':>5} {'us':>7} {'GMAC/s':>7} {'GB/s':>6} {'bound':>6}")
    for row in result["kernels"][:25]:
        print(
            f"{row['kernel'][:44]:44} {row['calls']:5d} {row['us']:7.1f} "
            f"{row['gmacs_per_s']:7.1f} {row['gbytes_per_s']:6.1f} {row['share_of_bound']:6.0%}"
        )
    for kind, value in sorted(result["kinds"].items(), key=lambda item: -item[1]["us"]):
        share = value["us"] / result["kernels_us"]
        print(f"{kind:14} {value['us']:8.1f} us {share:5.0%}", end="")
        print(f"   {value['bound_us'] / value['us']:4.0%} of its bound")
    print(
        f"kernels alone {result['kernels_us']} us, in the network {result['network_us']} us", end=""
    )
    print(f" ({result['network_us'] / result['kernels_us'] - 1:+.0%})")


if __name__ == "__main__":
    main()
