"""Cold start, memory and size of a shipped bundle against ONNX Runtime on the same network.

Each start is a fresh Python process with numpy and the same standard modules loaded. The clock runs
from before the import of the runtime to the first output. Files are in the page cache, as after an
installation. Contestants take turns. The bundle is loaded by its own `run.py`; ONNX Runtime loads
the plain model, and, to be fair, also one that it optimised beforehand.

    .venv/bin/pip install --no-deps -r requirements-bench.lock
    .venv/bin/python benchmarks/cold_start.py
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ofatvm.arch import Arch
from ofatvm.spaces import OFA_SPACE, find_space

RESULT = Path(__file__).resolve().parent / "results" / "cold_start.json"
OURS, PLAIN, OFFLINE = "ofatvm", "ONNX Runtime", "ONNX Runtime, optimised offline"
TARGETS = {"cold_start_ms": 0.5, "peak_mb": 0.9}
FILE_TARGET = 1.15
TOLERANCE = 1e-4

START = """
import argparse, ctypes, hashlib, importlib.util, json, math, os
import platform, runpy, sys, time, warnings
from pathlib import Path
from typing import Any, NoReturn
import numpy as np
folder, threads = Path(sys.argv[1]), int(sys.argv[2])
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
os.environ["TVM_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(threads)
x = np.load(folder / "bundle/sample/input.npy")
"""
# What `ru_maxrss` says would count the parent, too.
FINISH = """
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
expected = np.load(folder / "bundle/sample/output.npy")
print(json.dumps({
    "cold_start_ms": (done - start) * 1e3,
    "import_ms": (imported - start) * 1e3,
    "load_and_run_ms": (done - imported) * 1e3,
    "peak_mb": int(peak.split()[1]) / 1024,
    "difference": float(np.abs(y - expected).max() / np.abs(expected).max()),
}))
"""
RUN_OURS = """
run = runpy.run_path(str(folder / "bundle/run.py"))
manifest = json.loads((folder / "bundle/manifest.json").read_text())
start = time.perf_counter()
run["Runtime"]()
imported = time.perf_counter()
y = run["load_network"](manifest)(x)
done = time.perf_counter()
"""
RUN_ONNX = """
x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
start = time.perf_counter()
import onnxruntime
imported = time.perf_counter()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
if {offline}:
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
session = onnxruntime.InferenceSession(
    folder / "{file}", options, providers=["CPUExecutionProvider"]
)
y = session.run(["logits"], {{"x": x}})[0]
done = time.perf_counter()
"""
PROGRAMS = {
    OURS: RUN_OURS,
    PLAIN: RUN_ONNX.format(offline=False, file="model.onnx"),
    OFFLINE: RUN_ONNX.format(offline=True, file="optimised.onnx"),
}


def main() -> None:
    """Ship two bundles, start everything in turn, print and write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", default="host")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--starts", type=int, default=15, help="of each contestant")
    parser.add_argument("--workspace", type=Path, default=Path(".ofatvm/benchmark"))
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    space = find_space(OFA_SPACE).at(224)
    archs = {
        "smallest": space.smallest(),
        "middle": space.uniform(kernel=5, expand=4, depth=3),
    }
    names = ("ofatvm", "apache-tvm", "apache-tvm-ffi", "onnxruntime", "numpy")
    result: dict[str, Any] = {
        "schema": 1,
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in names},
        "starts": options.starts,
        "networks": {},
    }
    for name, arch in archs.items():
        with tempfile.TemporaryDirectory(prefix="ofatvm-start-") as folder:
            threads, raw_bytes = prepare_files(Path(folder), arch, options)
            samples = take_turns(Path(folder), threads, options.starts)
            sizes = {
                OURS: (Path(folder) / "bundle" / "model.so").stat().st_size,
                PLAIN: (Path(folder) / "model.onnx").stat().st_size,
                OFFLINE: (Path(folder) / "optimised.onnx").stat().st_size,
            }
        result["threads"] = threads
        result["networks"][name] = figures = {
            "arch": arch.encode(),
            "raw_weights_bytes": raw_bytes,
            "file_bytes": sizes,
            "file_over_raw": {who: size / raw_bytes for who, size in sizes.items()},
            "medians": {who: spread(found) for who, found in samples.items()},
        }
        figures["ratios"] = ratios(samples)
        print_figures(name, figures)
    print(", ".join(f"{name} {number}" for name, number in result["versions"].items()))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def prepare_files(folder: Path, arch: Arch, options: argparse.Namespace) -> tuple[int, int]:
    """Ship the bundle and write the ONNX models; the thread count and the bytes of raw weights."""
    import onnx
    import onnxruntime
    from onnx_model import onnx_model

    from ofatvm.graph import operator_graph, totals
    from ofatvm.pipeline.setup import prepare
    from ofatvm.pipeline.ship import ship
    from ofatvm.supernet.numpy_io import subnet_weights

    with prepare(
        options.target,
        space_name=OFA_SPACE,
        resolution=224,
        workspace=options.workspace,
        threads=options.threads,
    ) as setup:
        ship(setup, arch, folder / "bundle", weights=None, seed=0)
        threads = setup.target.threads
    graph = operator_graph(arch)
    weights = subnet_weights(arch, weights=None, seed=0).folded
    onnx.save(onnx_model(graph, weights), folder / "model.onnx")
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(folder / "optimised.onnx")
    settings.log_severity_level = 3  # it warns that the file suits this machine only
    onnxruntime.InferenceSession(
        folder / "model.onnx", settings, providers=["CPUExecutionProvider"]
    )
    return threads, totals(graph).weight_bytes


def take_turns(folder: Path, threads: int, starts: int) -> dict[str, list[dict[str, float]]]:
    """Figures of every start; a first turn fills the page cache and does not count."""
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in PROGRAMS}
    for turn in range(starts + 1):
        for name, program in PROGRAMS.items():
            words = [sys.executable, "-c", START + program + FINISH, str(folder), str(threads)]
            began = time.perf_counter()
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            whole_ms = (time.perf_counter() - began) * 1e3
            if done.returncode:
                raise SystemExit(f"{name} does not run: {done.stderr.strip()[-600:]}")
            found = json.loads(done.stdout)
            if not found.pop("difference") <= TOLERANCE:
                raise SystemExit(f"{name} gives another output")
            if turn:
                samples[name].append({**found, "process_ms": whole_ms})
    return samples


def spread(found: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Median, minimum and maximum of each figure."""
    result = {}
    for key in found[0]:
        values = [start[key] for start in found]
        result[key] = {
            "median": float(np.median(values)),
            "min": min(values),
            "max": max(values),
        }
    return result


def ratios(samples: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Ours over each rival's: the median over turns."""
    return {
        rival: {
            key: float(
                np.median([a[key] / b[key] for a, b in zip(samples[OURS], found, strict=True)])
            )
            for key in found[0]
        }
        for rival, found in samples.items()
        if rival != OURS
    }


def print_figures(name: str, figures: dict[str, Any]) -> None:
    """One row per contestant, then the ratios and whether the targets are met."""
    print(f"{name}: {figures['arch']}, {figures['raw_weights_bytes'] / 1e6:.2f} MB of raw weights")
    print(f"  {'':32} {'cold start ms (min-max)':>24} {'load+run':>9} {'peak MB':>8} {'file':>6}")
    for who, found in figures["medians"].items():
        cold = found["cold_start_ms"]
        text = f"{cold['median']:.1f} ({cold['min']:.1f}-{cold['max']:.1f})"
        print(
            f"  {who:32} {text:>24} {found['load_and_run_ms']['median']:9.1f} "
            f"{found['peak_mb']['median']:8.1f} {figures['file_over_raw'][who]:6.3f}"
        )
    for rival, found in figures["ratios"].items():
        parts = []
        for key, target in TARGETS.items():
            mark = "met" if found[key] <= target else "missed"
            parts.append(f"{key.rsplit('_', 1)[0]} {found[key]:.3f} (target {target:g} {mark})")
        parts.append(f"load+run {found['load_and_run_ms']:.3f}")
        print(f"  ours / {rival}: {', '.join(parts)}")
    own = figures["file_over_raw"][OURS]
    print(
        f"  file / raw weights: target {FILE_TARGET:g} {'met' if own <= FILE_TARGET else 'missed'}"
    )


if __name__ == "__main__":
    main()
