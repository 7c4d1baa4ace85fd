"""Programs of the Relay road in a device's child process: graph executors over single kernels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofatvm.device import loaded
from ofatvm.device.children import set_threads
from ofatvm.device.visit import initialise

if TYPE_CHECKING:
    import numpy as np

ESTIMATE_REPEATS = 4


@dataclass(frozen=True, slots=True)
class LoadedGraph:
    """A graph executor whose inputs and weights are set."""

    executor: Any

    def samples(self, count: int, *, repeats: int = 1) -> list[float]:
        """Seconds a call, in `count` samples of `repeats` calls."""
        import tvm

        run = self.executor.module.time_evaluator("run", tvm.cpu(), number=repeats, repeat=count)
        return [float(second) for second in run().results]

    def blocks(self, count: int, seconds: float) -> list[float]:
        """Seconds a call, in `count` samples that take about `seconds` each."""
        estimate = max(min(self.samples(2, repeats=ESTIMATE_REPEATS)), 1e-8)
        return self.samples(count, repeats=max(1, round(seconds / estimate)))


def start_device(threads: int) -> None:
    """Fix threads and cores, and let visits load graphs."""
    set_threads(threads)
    initialise(threads)
    loaded.load_with(load_graph)


def load_graph(path: str, sizes: Sequence[int]) -> LoadedGraph:
    """The program in a file as `compiler.relay_graph` writes it, on random inputs and weights.

    `path` may be a shared library, too, with graph and weights in it, as it ships.
    """
    import numpy as np
    import tvm
    from tvm.contrib import graph_executor

    del sizes
    if path.endswith(".so"):
        module = graph_executor.GraphModule(tvm.runtime.load_module(path)["default"](tvm.cpu()))
    else:
        module = executor(path)
    numbers = loaded.number_pool()
    start = 0
    for place in range(module.get_num_inputs()):
        tensor = module.get_input(place)
        if path.endswith(".so") and place != module.get_input_index("x"):
            continue
        size = int(np.prod(tensor.shape))
        start = start if start + size <= len(numbers) else 0
        values = np.resize(numbers[start : start + size], tensor.shape)
        tensor.copyfrom(values)
        start += size
    return LoadedGraph(module)


def executor(path: str) -> Any:
    """The graph executor of a program for measuring; its inputs and weights are not set."""
    import tvm
    from tvm.contrib import graph_executor

    value = json.loads(Path(path).read_text())
    home = Path(path).resolve().parent
    first, *others = (str(home / kernel) for kernel in value["kernels"])
    library = tvm.runtime.load_module(first)  # one of its own: it gets the others
    for kernel in others:
        library.import_module(_kernel(kernel))
    return graph_executor.create(json.dumps(value["graph"]), library, tvm.cpu())


def program_output(path: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """What a program for measuring gives for an input and weights, by their names in its graph."""
    module = executor(path)
    for name, array in arrays.items():
        module.set_input(name, array.reshape(module.get_input(name).shape))
    module.run()
    output: np.ndarray = module.get_output(0).numpy()
    return output


@cache
def _kernel(path: str) -> Any:
    import tvm

    return tvm.runtime.load_module(path)
