"""The runtimes that are compared, each in a process of its own that answers one command at a time.

Every class takes the better of a runtime's documented settings where there are several, per
network, and says which.
"""

from __future__ import annotations

import gc
import os
import pickle
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np

MIN_WARM_UP_CALLS = 3


@dataclass(frozen=True, slots=True)
class Loaded:
    """A network ready to be called: `call` is what is timed, `output` gives its result.

    `choice` names the setting that was taken where a runtime was tried in several.
    """

    call: Callable[[], object]
    output: Callable[[], np.ndarray]
    choice: str = ""


class Contestant(Protocol):
    """A runtime with a number of threads."""

    packages: tuple[str, ...]
    setting: str

    def __init__(self, *, threads: int) -> None:
        """`threads` is also the number of cores that the process may use."""

    def load(self, folder: Path) -> Loaded:
        """The prepared network in a folder, on its input."""


class Ofatvm:
    """A shipped module, loaded as a bundle's run.py loads it."""

    packages = ("ofatvm", "apache-tvm", "apache-tvm-ffi")
    setting = "model.so as shipped"

    def __init__(self, model: str = "host", *, threads: int) -> None:
        """`model` names the target."""
        from ofatvm.device.bundle_runner import load_runtime

        load_runtime()
        self.file = model_file(model, threads)

    def load(self, folder: Path) -> Loaded:
        """As `Contestant.load`."""
        from ofatvm.device.bundle_runner import load_network, network_input

        network = load_network(str(folder / self.file))
        x = network_input(np.load(folder / "input.npy"))
        return Loaded(lambda: network(x), lambda: np.from_dlpack(network(x)))


class Relay:
    """The same network through TVM Relay; its process is one of TVM 0.19's environment."""

    packages = ("xtc-tvm-python-bindings",)
    setting = "graph executor, NCHWc"

    def __init__(self, variant: str = "tuned", *, threads: int) -> None:
        """`variant` is tuned or untuned."""
        from ofatvm.relay.run import load_runtime

        load_runtime()
        self.file = relay_file(variant, threads)

    def load(self, folder: Path) -> Loaded:
        """As `Contestant.load`."""
        from ofatvm.relay.run import load_network, network_input

        network = load_network(str(folder / self.file))
        x = network_input(np.load(folder / "input.npy"))
        return Loaded(lambda: network(x), lambda: network(x))


class OnnxRuntime:
    """CPU provider on NCHW."""

    packages = ("onnxruntime",)
    setting = "CPU provider, all graph optimisations, threads spin as by default"

    def __init__(self, *, threads: int) -> None:
        """As many threads within an operator; operators one after the other."""
        import onnxruntime

        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads = threads
        self.options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL

    def load(self, folder: Path) -> Loaded:
        """Called plainly, or with input and output bound once."""
        import onnxruntime

        session = onnxruntime.InferenceSession(
            folder / "model.onnx", self.options, providers=["CPUExecutionProvider"]
        )
        x = channels_first(folder)
        binding = session.io_binding()
        # What is bound must outlive the binding.
        given = onnxruntime.OrtValue.ortvalue_from_numpy(x)
        binding.bind_ortvalue_input("x", given)
        shape = session.get_outputs()[0].shape
        taken = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
        binding.bind_ortvalue_output("logits", taken)

        def bound() -> object:
            return session.run_with_iobinding(binding), given, taken

        choice, call = fastest(
            {"run": lambda: session.run(["logits"], {"x": x}), "bound once": bound}
        )
        return Loaded(call, lambda: session.run(["logits"], {"x": x})[0], choice)


class OpenVino:
    """CPU plugin."""

    packages = ("openvino",)
    setting = "latency hint, one stream, f32"

    def __init__(self, *, threads: int) -> None:
        """As many threads for one request."""
        self.options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self.inputs: list[object] = []

    def load(self, folder: Path) -> Loaded:
        """Inferred at once, or started and waited for."""
        import openvino

        compiled = openvino.Core().compile_model(folder / "model.onnx", "CPU", self.options)
        request = compiled.create_infer_request()
        x = channels_first(folder)
        tensor = openvino.Tensor(x, shared_memory=True)
        # Nothing else keeps their memory.
        self.inputs += [x, tensor]
        request.set_input_tensor(tensor)

        def waited() -> object:
            request.start_async()
            return request.wait()

        calls = {"infer": lambda: request.infer(share_outputs=True), "start and wait": waited}
        choice, call = fastest(calls)

        def output() -> np.ndarray:
            request.infer()
            return np.array(request.get_output_tensor().data)

        return Loaded(call, output, choice)


class TorchEager:
    """Batch norms folded into convolutions, activations in place."""

    packages = ("torch",)
    setting = "inference mode, norms folded"

    def __init__(self, *, threads: int) -> None:
        """The whole process stays in inference mode."""
        import torch

        torch.set_num_threads(threads)
        # The mode ends with this object.
        self.mode = torch.inference_mode()
        self.mode.__enter__()

    def load(self, folder: Path) -> Loaded:
        """Contiguous, or channels last."""
        import torch

        calls = {}
        for name, layout in (
            ("contiguous", torch.contiguous_format),
            ("channels last", torch.channels_last),
        ):
            x = torch.from_numpy(channels_first(folder)).contiguous(memory_format=layout)
            calls[name] = partial(torch_module(folder).to(memory_format=layout), x)
        choice, call = fastest(calls)
        return Loaded(call, lambda: call().numpy(), choice)


class TorchCompile:
    """Inductor with weights frozen; a variant is another mode."""

    packages = ("torch",)
    setting = "inductor, freezing, C++ wrapper, channels last"

    def __init__(self, mode: str = "default", *, threads: int) -> None:
        """The whole process stays without gradients, which freezing needs."""
        import torch
        from torch._inductor import config, select_algorithm

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.mode = mode
        self.setting = f"{TorchCompile.setting}, mode {mode}"
        config.freezing = True
        config.cpp_wrapper = True
        config.max_autotune_report_choices_stats = False
        select_algorithm.PRINT_AUTOTUNE = False
        # One network after the other is compiled: none may count as a change of the one before.
        torch._dynamo.config.cache_size_limit = 64

    def load(self, folder: Path) -> Loaded:
        """Compiled by its first call."""
        import torch

        layout = torch.channels_last
        x = torch.from_numpy(channels_first(folder)).contiguous(memory_format=layout)
        module = torch_module(folder).to(memory_format=layout)
        call = partial(torch.compile(module, mode=self.mode, dynamic=False), x)
        call()
        return Loaded(call, lambda: call().numpy())


CONTESTANTS: dict[str, Callable[..., Contestant]] = {
    "ofatvm": Ofatvm,
    "Relay": Relay,
    "ONNX Runtime": OnnxRuntime,
    "OpenVINO": OpenVino,
    "PyTorch eager": TorchEager,
    "torch.compile": TorchCompile,
}


def maker(name: str) -> Callable[..., Contestant]:
    """The class of a contestant's name, which may end in "(VARIANT)".

    A variant of ofatvm is a target, one of torch.compile a mode.
    """
    base, _, variant = name.removesuffix(")").partition(" (")
    if not variant:
        return CONTESTANTS[base]
    return partial(CONTESTANTS[base], variant)


def base_name(name: str) -> str:
    """The name without its variant."""
    return name.partition(" (")[0]


def model_file(target: str, threads: int) -> str:
    """Where our module for a target is in a network's folder."""
    return f"{target}-{threads}.so"


def relay_file(variant: str, threads: int) -> str:
    """Where a network's library of the Relay road is in its folder."""
    return f"relay-{variant}-{threads}.so"


def channels_first(folder: Path) -> np.ndarray:
    """The network's input, NCHW."""
    return np.ascontiguousarray(np.load(folder / "input.npy").transpose(0, 3, 1, 2))


def torch_module(folder: Path) -> Any:
    """The network as a PyTorch module; the file is our own, written moments ago."""
    from torch_model import GraphModule

    return GraphModule(*pickle.loads((folder / "network.pickle").read_bytes())).eval()


def fastest(calls: dict[str, Callable[[], Any]]) -> tuple[str, Callable[[], Any]]:
    """The quickest of several ways to the same result: the least median of three turns each."""
    times = {name: min(_median(call) for _ in range(3)) for name, call in calls.items()}
    best = min(times, key=lambda name: times[name])
    return best, calls[best]


def _median(call: Callable[[], object]) -> float:
    return statistics.median(visit(call, 0.02, 0.06))


def visit(call: Callable[[], object], warm_up_s: float, block_s: float) -> list[float]:
    """Seconds of each call in a block of at least `block_s`, after a warm-up."""
    end, count = time.perf_counter() + warm_up_s, 0
    while count < MIN_WARM_UP_CALLS or time.perf_counter() < end:
        call()
        count += 1
    times: list[float] = []
    start = time.perf_counter()
    end = start + block_s
    while start < end:
        call()
        now = time.perf_counter()
        times.append(now - start)
        start = now
    return times


def serve(connection: Connection, name: str, threads: int) -> None:
    """A contestant's process: answer `load`, `output` and `visit` until the parent hangs up."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    contestant = maker(name)(threads=threads)
    loaded: list[Loaded] = []
    versions = {package: metadata.version(package) for package in contestant.packages}
    connection.send((contestant.setting, versions))
    gc.disable()
    while True:
        try:
            command, *arguments = connection.recv()
        except EOFError:
            return
        if command == "load":
            loaded.append(contestant.load(Path(arguments[0])))
            gc.collect()
            connection.send(loaded[-1].choice)
        elif command == "output":
            connection.send(np.array(loaded[arguments[0]].output(), dtype=np.float64))
        else:
            number, warm_up_s, block_s = arguments
            connection.send(statistics.median(visit(loaded[number].call, warm_up_s, block_s)))
