"""Compiled subnets give what PyTorch gives, shipped and as programs over the library alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ofatvm.arch import Arch
from ofatvm.compiler.kernels import Kernel
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.relax import Weights, build_model, build_program, pack_weights
from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.graph import operator_graph
from ofatvm.pipeline.setup import Setup
from ofatvm.supernet.fold import folded_weights
from ofatvm.supernet.net import Subnet, Supernet, extract
from tests.workbench import SPACE, TARGET, real_setup, run_flat

TOLERANCE = 1e-4


def subnet(arch: Arch) -> Subnet:
    """Cut out of untrained weights whose norms all matter, as trained ones do."""
    supernet = Supernet(arch.space, seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, tensor in supernet.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith(("running_var", "bn.weight")):
            tensor.mul_(torch.exp(0.2 * noise))
        elif name.endswith(("running_mean", "bn.bias")):
            tensor.add_(0.1 * noise)
    return extract(supernet.eval(), arch).eval()


def images(arch: Arch, count: int = 2) -> np.ndarray:
    shape = (count, 1, arch.resolution, arch.resolution, 3)
    return np.random.default_rng(3).standard_normal(shape, dtype=np.float32)


def expected(module: Subnet, image: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        result: np.ndarray = module(torch.from_numpy(image.transpose(0, 3, 1, 2).copy())).numpy()
    return result


def kernels_of(setup: Setup, arch: Arch) -> dict[Workload, Kernel]:
    found: dict[Workload, Kernel] = setup.library.require(setup.workloads([arch]))
    return found


def error(output: np.ndarray, wanted: np.ndarray) -> float:
    assert output.shape == wanted.shape
    return float(np.abs(output - wanted).max() / np.abs(wanted).max())


def run_model(path: Path, image: np.ndarray) -> np.ndarray:
    import tvm
    from tvm import relax

    machine = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
    result: np.ndarray = machine["main"](tvm.runtime.tensor(image)).numpy()
    return result


def run_program(
    setup: Setup, arch: Arch, folded: Weights, image: np.ndarray, path: Path
) -> np.ndarray:
    graph, kernels = operator_graph(arch), kernels_of(setup, arch)
    program = build_program(graph, kernels, TARGET, path)
    flat = pack_weights(graph, kernels, folded)
    once, thrice = (
        run_flat(program.path, program.sizes, image.ravel(), flat, repeats=repeats)
        for repeats in (1, 3)
    )
    np.testing.assert_array_equal(once, thrice)
    return once[None]


def check(setup: Setup, arch: Arch, folder: Path) -> None:
    module = subnet(arch)
    folded = folded_weights(module, arch)
    path = folder / "model.so"
    build_model(operator_graph(arch), kernels_of(setup, arch), folded, TARGET, path)
    for image in images(arch):
        output = run_model(path, image)
        assert error(output, expected(module, image)) <= TOLERANCE
        by_program = run_program(setup, arch, folded, image, folder / "program.so")
        assert error(by_program, output) <= 1e-6


@pytest.mark.parametrize("which", ["smallest", "drawn"])
def test_a_subnet_gives_what_pytorch_gives(bench: Setup, tmp_path: Path, which: str) -> None:
    small = bench.space.smallest()
    check(
        bench,
        small if which == "smallest" else bench.space.sample(np.random.default_rng(8)),
        tmp_path,
    )


def test_channels_that_a_tile_fills_up_are_no_part_of_the_output(tmp_path: Path) -> None:
    setup = real_setup(tmp_path)
    arch = setup.space.smallest()
    for workload in setup.workloads([arch]):
        channels = workload.out_shape[-1]
        if workload.kind in ("pointwise", "dense") and channels <= 120:
            tile = ScheduleConfig(rows=1, columns=1, groups=channels // 4 + 2, lanes=4)
            setup.library.records[workload.key] = tile
    filled = {
        kernel.workload.kind
        for kernel in kernels_of(setup, arch).values()
        if kernel.config.channels > kernel.workload.out_shape[-1]
    }
    assert filled == {"pointwise", "dense"}
    check(setup, arch, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", range(20))
def test_random_subnets_at_many_resolutions(bench: Setup, tmp_path: Path, number: int) -> None:
    check(bench, SPACE.sample(np.random.default_rng([20, number])), tmp_path)


def test_a_program_holds_its_kernels_and_no_weights(bench: Setup, tmp_path: Path) -> None:
    arch = bench.space.smallest()
    program = build_program(
        operator_graph(arch), kernels_of(bench, arch), TARGET, tmp_path / "program.so"
    )
    assert {kernel.workload for kernel in program.kernels} == bench.workloads([arch])
    assert program.sizes[0] == 128 * 128 * 3
    assert program.sizes[3] == 1000
    assert program.path.stat().st_size < 4 * program.sizes[1] / 20
