"""Run a network of the Relay road in a child process of its environment; see `bundle_runner`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ofatvm.device.bundle_runner import run_task


def load_runtime() -> None:
    """Import TVM 0.19; ImportError or OSError if it is not there."""
    os.environ["TVM_USE_RUNTIME_LIB"] = "1"  # without the compiler, and LLVM
    import tvm

    if not tvm.__version__.startswith("0.19."):
        raise ImportError(f"this is TVM {tvm.__version__}, not 0.19")


def load_network(model: str) -> Callable[[Any], np.ndarray]:
    """The network in a library of the graph executor, from a tensor of its own to an array."""
    import tvm
    from tvm.contrib import graph_executor

    module = graph_executor.GraphModule(tvm.runtime.load_module(model)["default"](tvm.cpu()))

    def run(given: Any) -> np.ndarray:
        module.set_input_zero_copy("x", given)
        module.run()
        output: np.ndarray = module.get_output(0).numpy()
        return output

    return run


def network_input(values: np.ndarray) -> Any:
    """An array as a tensor that the executor takes without copying it."""
    import tvm

    return tvm.nd.array(values)


if __name__ == "__main__":
    run_task(sys.argv[1:], load_runtime, load_network, network_input)
