"""Networks for GPUs: what they compute, what their libraries hold, and what is said of them."""

from __future__ import annotations

import ctypes
import shutil
import struct
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest

from ofatvm.arch import Arch
from ofatvm.compiler.gpu import NOT_RUN, GpuBuild, build_gpu_model, build_gpu_program
from ofatvm.compiler.gpu_measure import load_gpu
from ofatvm.compiler.gpu_pack import embedded_format
from ofatvm.compiler.plan import kernel_calls
from ofatvm.elf import elf_machine
from ofatvm.errors import TargetError
from ofatvm.graph import operator_graph
from ofatvm.spaces import SMALL
from ofatvm.supernet.fold import folded_weights
from ofatvm.target import Target, target_from_dict
from tests.compiler.test_gpu_nvcc import needs_nvcc
from tests.compiler.test_relax import TOLERANCE, error, expected, images, run_model, subnet
from tests.workbench import TARGET


def cuda(arch: str, **host: Any) -> Target:
    return target_from_dict(
        {"kind": "cuda", "arch": arch, "host": {"kind": "llvm", **host}}, name="gpu"
    )


JETSON = cuda("sm_87", mtriple="aarch64-linux-gnu", mcpu="cortex-a78")
ARCH = SMALL.smallest()


def beginning(arch: Arch) -> nx.DiGraph[str]:
    """The stem and the first block: what a library holds does not depend on more."""
    graph = operator_graph(arch)
    graph.remove_nodes_from([name for name in graph if not name.startswith(("i", "stem", "f"))])
    return graph


def build(arch: Arch, target: Target, path: Path) -> GpuBuild:
    weights = folded_weights(subnet(arch), arch)
    return build_gpu_model(beginning(arch), weights, target, path)


def has_gpu() -> bool:
    """Whether this machine has NVIDIA's driver and TVM's runtime for it."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    import tvm

    return bool(tvm.cuda(0).exist)


def loaded_with(path: Path) -> tuple[str, bytes]:
    """What TVM's CUDA runtime gets for a library's kernels when it is loaded: format and code."""
    import tvm
    import tvm_ffi

    name = "ffi.Module.load_from_bytes.cuda"
    got: list[bytes] = []

    def load(content: bytes) -> Any:
        got.append(bytes(content))
        return tvm.tirx.build(tvm.IRModule({}), target="llvm")

    had = tvm.get_global_func(name, allow_missing=True)
    tvm_ffi.register_global_func(name, load, override=True)
    try:
        tvm.runtime.load_module(str(path))
    finally:
        if had is None:
            tvm_ffi.remove_global_func(name)
        else:
            tvm_ffi.register_global_func(name, had, override=True)
    (size,) = struct.unpack_from("<Q", got[0])
    kind = got[0][8 : 8 + size].decode()
    start = got[0].index(b"\x7fELF" if kind == "cubin" else b"//")
    assert struct.unpack_from("<Q", got[0], start - 8) == (len(got[0]) - start,)
    return kind, got[0][start:]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_lowered_network_gives_what_pytorch_gives(seed: int, tmp_path: Path) -> None:
    # The same Relax module over the same functions, but unscheduled and on a CPU.
    arch = SMALL.sample(np.random.default_rng(seed))
    module = subnet(arch)
    path = tmp_path / "model.so"
    built = build_gpu_model(operator_graph(arch), folded_weights(module, arch), TARGET, path)
    assert built.kernels == len({call.workload for call in kernel_calls(operator_graph(arch))})
    for image in images(arch)[..., :1]:
        assert error(run_model(path, image), expected(module, image)) < TOLERANCE


@needs_nvcc
def test_a_library_for_a_jetson_holds_machine_code(tmp_path: Path) -> None:
    built = build(ARCH, JETSON, tmp_path / "model.so")
    assert (built.format, built.notes) == ("cubin", (NOT_RUN,))
    assert elf_machine(built.path) == "aarch64"
    library = built.path.read_bytes()
    assert embedded_format(library) == "cubin"
    assert b"__global__" not in library
    for call in kernel_calls(beginning(ARCH)):
        assert f"{call.workload.key}_kernel".encode() in library


@needs_nvcc
def test_the_runtime_is_given_machine_code(tmp_path: Path) -> None:
    built = build(ARCH, cuda("sm_87"), tmp_path / "model.so")
    kind, code = loaded_with(built.path)
    assert kind == "cubin"
    assert code.startswith(b"\x7fELF")


@needs_nvcc
def test_for_an_old_gpu_the_runtime_is_given_ptx_that_ends(tmp_path: Path) -> None:
    built = build(ARCH, cuda("sm_72"), tmp_path / "model.so")
    assert built.format == "ptx"
    assert len(built.notes) == 2
    kind, code = loaded_with(built.path)
    assert kind == "ptx"
    assert code.endswith(b"\n\0")


def test_without_nvcc_the_library_holds_source_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ofatvm.compiler import gpu_nvcc

    found = shutil.which
    monkeypatch.setattr(
        gpu_nvcc.shutil, "which", lambda name: None if name == "nvcc" else found(name)
    )
    built = build(ARCH, JETSON, tmp_path / "model.so")
    assert built.format == "source"
    assert "no nvcc was found" in built.notes[0]
    assert embedded_format(built.path.read_bytes()) == "cuda"


def test_an_arch_is_required(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="needs an arch"):
        build(ARCH, Target(name="gpu", kind="cuda"), tmp_path / "model.so")


def test_a_program_is_measured_over_rpc(tmp_path: Path) -> None:
    from tvm import rpc

    program = build_gpu_program(beginning(ARCH), TARGET, tmp_path / "program.so")
    network = load_gpu(rpc.LocalSession(), program.build.path, program.shapes, kind="cpu")
    times = network.samples_ms(3, calls=2)
    assert len(times) == 3
    assert all(0 < time_ms < 1000 for time_ms in times)


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="needs an NVIDIA GPU and its driver")
def test_on_a_gpu_the_network_gives_what_pytorch_gives(tmp_path: Path) -> None:
    import tvm
    from tvm import relax

    device = tvm.cuda(0)
    arch = f"sm_{device.compute_version.replace('.', '')}"
    module = subnet(ARCH)
    graph, weights = operator_graph(ARCH), folded_weights(module, ARCH)
    built = build_gpu_model(graph, weights, cuda(arch), tmp_path / "model.so")
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(built.path)), device)
    for image in images(ARCH)[..., :1]:
        output = machine["main"](tvm.runtime.tensor(image, device=device)).numpy()
        assert error(output, expected(module, image)) < TOLERANCE
