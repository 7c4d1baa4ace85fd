"""Runs programs for `test_program.py`, in a process of its own with so many threads.

`python -m tests.compiler.run_programs THREADS FOLDER JOB...`; a job is `NAME:REPEATS`. The program
FOLDER/NAME.so gets what is in FOLDER/NAME.npz; its workspace afterwards is written to
FOLDER/NAME-THREADS-REPEATS-workspace.npy and its output likewise.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np


def main(threads: int, folder: Path, jobs: list[str]) -> None:
    os.environ["TVM_NUM_THREADS"] = str(threads)
    import tvm

    # Otherwise TVM uses no more threads than there are cores.
    tvm.get_global_func("runtime.config_threadpool")(1, threads)
    for job in jobs:
        name, repeats = job.split(":")
        given = np.load(folder / f"{name}.npz")
        tensors = [tvm.runtime.tensor(given[key]) for key in ("x", "weights", "workspace", "out")]
        module = tvm.runtime.load_module(str(folder / f"{name}.so"))
        module["forward"](int(repeats), *tensors)
        stem = f"{name}-{threads}-{repeats}"
        np.save(folder / f"{stem}-workspace.npy", tensors[2].numpy())
        np.save(folder / f"{stem}-out.npy", tensors[3].numpy())


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
