"""Networks through Relay give what PyTorch gives, as programs over the library and as they ship."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ofatvm import hang
from ofatvm.arch import Arch
from ofatvm.compiler import relay_env
from ofatvm.compiler.link import link
from ofatvm.compiler.plan import Workload, kernel_calls
from ofatvm.compiler.relay import RelayKernel, RelayLibrary, pack_weights
from ofatvm.compiler.relay_env import RelayError, RelayPool, RelayProcess, compiled
from ofatvm.compiler.relay_plain import argument_places
from ofatvm.device.bundle_runner import run_images
from ofatvm.errors import CompileError, DeviceError, MissingInputError
from ofatvm.graph import operator_graph
from ofatvm.relay.about import tvm_version
from ofatvm.relay.blocks import Blocking, argument_shapes
from ofatvm.relay.load import program_output, start_device
from ofatvm.spaces import find_space
from ofatvm.supernet.fold import folded_weights
from tests.compiler.test_relax import error, expected, images, subnet
from tests.workbench import TARGET

pytestmark = pytest.mark.relay
TOLERANCE = 1e-4
BLOCKING = Blocking(4, 4)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayLibrary]:
    with RelayPool(2) as pool:
        yield RelayLibrary(tmp_path_factory.mktemp("relay"), TARGET, BLOCKING, {}, pool)


def check_program(library: RelayLibrary, arch: Arch, folder: Path) -> None:
    module = subnet(arch)
    graph = operator_graph(arch)
    program = library.program(graph, folder / "program.json")
    packed = pack_weights(kernel_calls(graph), folded_weights(module, arch), library.blocking)
    arrays = {f"{node}.{n}": a for node, held in packed.items() for n, a in enumerate(held)}
    with RelayProcess() as process:
        for image in images(arch):
            output = process.call(program_output, str(program.path), arrays | {"x": image})
            wanted = expected(module, image)
            assert error(output.reshape(wanted.shape), wanted) <= TOLERANCE


@pytest.mark.parametrize("which", ["smallest", "drawn"])
def test_a_program_over_the_library_gives_what_pytorch_gives(
    library: RelayLibrary, tmp_path: Path, which: str
) -> None:
    space = find_space("mbv3w1.0").at(128)
    drawn = space.sample(np.random.default_rng(8))
    check_program(library, space.smallest() if which == "smallest" else drawn, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("resolution", [128, 176, 224])
@pytest.mark.parametrize("number", range(10))
def test_random_subnets_at_three_resolutions(
    library: RelayLibrary, tmp_path: Path, number: int, resolution: int
) -> None:
    space = find_space("mbv3w1.0").at(resolution)
    check_program(library, space.sample(np.random.default_rng([20, number])), tmp_path)


def test_what_ships_gives_what_pytorch_gives(library: RelayLibrary, tmp_path: Path) -> None:
    arch = find_space("mbv3w1.0").at(128).smallest()
    module = subnet(arch)
    path = tmp_path / "model.so"
    graph = operator_graph(arch)
    made = library.build_model(graph, folded_weights(module, arch), path)
    # Relay's own fusion of the whole network gives the kernels of the plan, and none more.
    program = json.loads(library.program(graph, tmp_path / "program.json").path.read_text())
    assert made == sum(node["op"] != "null" for node in program["graph"]["nodes"])
    given = np.concatenate(images(arch))
    outputs = run_images(path, given, threads=1, timeout_s=60, ir="relay")
    for image, output in zip(given, outputs, strict=True):
        assert error(output[None], expected(module, image[None])) <= TOLERANCE


def test_a_kernel_is_compiled_once_and_found_again(library: RelayLibrary) -> None:
    workload = Workload("pointwise", (7, 7, 64), (7, 7, 32), scaled=True, residual=True)
    kernel = library.require([workload])[workload]
    written = kernel.library.stat().st_mtime_ns
    assert not library.missing([workload])
    assert library.require([workload])[workload] == kernel
    assert kernel.library.stat().st_mtime_ns == written
    kernel.library.write_bytes(kernel.library.read_bytes()[:1000])  # as a power cut leaves it
    assert [found.workload for found in library.missing([workload])] == [workload]
    library.require([workload])
    assert not library.missing([workload])


def test_a_record_gives_another_kernel(library: RelayLibrary) -> None:
    workload = Workload("pointwise", (7, 7, 64), (7, 7, 32))
    config = (
        '[["tile_ic", "sp", [-1, 4]], ["tile_oc", "sp", [-1, 4]], ["tile_ow", "sp", [-1, 7]],'
        ' ["tile_oh", "ot", 1]]'
    )
    records = {"conv_c64x7x7_o32_k1s1": config}
    tuned = RelayLibrary(library.folder, TARGET, BLOCKING, records, library.pool)
    assert tuned.kernel(workload).tuned
    assert tuned.kernel(workload).digest != library.kernel(workload).digest
    assert not library.kernel(workload).tuned
    tuned.require([workload])
    broken = {"conv_c64x7x7_o32_k1s1": '[["tile_oh", "ot", 1]]'}
    with pytest.raises(CompileError, match="Relay did not compile a kernel"):
        RelayLibrary(library.folder, TARGET, BLOCKING, broken, library.pool).require([workload])


KINDS = [
    Workload("conv", (28, 28, 3), (14, 14, 16), kernel=3, stride=2, activation="h_swish"),
    Workload("depthwise", (14, 14, 24), (7, 7, 24), kernel=5, stride=2, activation="relu"),
    Workload("pointwise", (7, 7, 64), (7, 7, 32), scaled=True, residual=True),
    Workload("dense", (64,), (10,), activation="h_sigmoid"),
    Workload("mean", (7, 7, 64), (64,)),
]


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("workload", KINDS, ids=lambda workload: workload.kind)
def test_plain_functions_compute_what_the_executor_computes(
    library: RelayLibrary, workload: Workload, tasks: int, tmp_path: Path
) -> None:
    plain = RelayLibrary(library.folder / "plain", TARGET, BLOCKING, {}, library.pool, linked=False)
    kernel = plain.require([workload])[workload]
    assert not plain.missing([workload])
    rng = np.random.default_rng(0)
    shapes = argument_shapes(workload, BLOCKING)
    arrays = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    executed = library.require([workload])[workload]
    with RelayProcess() as process:
        named = {f"a{place}": array for place, array in enumerate(arrays)}
        wanted = process.call(program_output, str(executed.path), named)
    output = run_steps(kernel, arrays, tasks, tmp_path / "kernel.so")
    assert error(output, wanted.ravel()) <= 1e-5


def run_steps(kernel: RelayKernel, arrays: list[np.ndarray], tasks: int, path: Path) -> np.ndarray:
    """The output of a kernel's steps, each cut into `tasks` shares that run one by one."""
    link(TARGET, str(path), [str(name) for name in kernel.objects])
    functions = ctypes.CDLL(str(path))
    bases = ("x", "weights", "workspace", "out")
    tensors = dict(zip(bases, map(np.zeros, kernel.sizes, 4 * [np.float32]), strict=True))
    places, _ = argument_places(kernel.workload, BLOCKING)
    for (base, offset), array in zip(places, arrays, strict=True):
        tensors[base][offset // 4 : offset // 4 + array.size] = array.ravel()
    for step in kernel.steps:
        pointers = [
            ctypes.c_void_p(tensors[base].ctypes.data + offset) for base, offset in step.arguments
        ]
        shares = range(tasks) if step.parallel else [0]
        for task in shares:
            function = getattr(functions, step.symbol)
            function(ctypes.c_int32(task), ctypes.c_int32(len(shares)), *pointers)
    return tensors["out"]


def test_a_process_says_what_went_wrong_and_goes_on() -> None:
    with RelayProcess() as process:
        assert process.call(tvm_version) == "0.19.0"
        with pytest.raises(RelayError, match="could not convert string to float"):
            process.call(float, "x")
        with pytest.raises(RelayError, match="the process died"):
            process.call(exec, "import os; os._exit(3)")
        with pytest.raises(TimeoutError, match=r"longer than 0 s"):
            process.call(exec, "import time; time.sleep(60)", timeout_s=0.3)
        assert process.call(tvm_version) == "0.19.0"


def test_what_no_candidate_is_to_blame_for_is_raised_as_it_was() -> None:
    with RelayProcess() as process:
        with pytest.raises(DeviceError, match="No such file"):
            process.call(open, "/nowhere/at/all")
        with pytest.raises(MissingInputError, match="No module named 'no_such_package'") as lacking:
            process.call(exec, "import no_such_package")
        assert "make relay" in lacking.value.hint
        with pytest.raises(MissingInputError, match="no linker") as caught:
            process.call(
                exec,
                "from ofatvm.errors import MissingInputError\n"
                "raise MissingInputError('no linker', hint='get one')",
            )
    assert caught.value.hint == "get one"


def test_a_process_that_died_is_made_ready_again() -> None:
    with RelayProcess(2, initialise=start_device) as process:
        with pytest.raises(RelayError, match="the process died"):
            process.call(os._exit, 3)
        loaders = "__import__('ofatvm.device.loaded', fromlist=['_loaders'])._loaders"
        assert process.call(eval, f"[loader.__name__ for loader in {loaders}]") == ["load_graph"]


def test_what_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_env, "_SOURCES", Path("/nowhere"))
    with (
        pytest.raises(MissingInputError, match=r"does not start: .*No module named") as caught,
        RelayProcess() as process,
    ):
        process.call(tvm_version)
    assert "doctor" in caught.value.hint


def test_another_tvm_in_the_way_is_not_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tvm").mkdir()
    (tmp_path / "tvm" / "__init__.py").write_text("__version__ = 'planted'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with RelayProcess() as process:
        assert process.call(tvm_version) == "0.19.0"


def test_targets_of_other_machines_compile(library: RelayLibrary) -> None:
    target = replace(TARGET, name="a72", mtriple="aarch64-linux-gnu", mcpu="cortex-a72", mattr=())
    plain = RelayLibrary(library.folder, target, BLOCKING, {}, library.pool, linked=False)
    workload = Workload("pointwise", (7, 7, 64), (7, 7, 32), activation="relu")
    kernel = plain.require([workload])[workload]
    assert kernel.objects[0].read_bytes()[18:20] == b"\xb7\x00"  # EM_AARCH64


DIE_ONCE = """
import os, pathlib, signal
mark = pathlib.Path({mark!r})
if not mark.exists():
    mark.touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_job_whose_process_is_killed_is_done_again(tmp_path: Path) -> None:
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with RelayPool(1) as pool:
        mark = tmp_path / "mark"
        assert compiled([pool.submit(exec, DIE_ONCE.format(mark=str(mark)))]) == [None]
        assert mark.exists()
        with pytest.raises(CompileError, match=r"died twice over one job: .* of Killed") as caught:
            compiled([pool.submit(exec, killed)])
        assert "memory" in caught.value.hint
        assert compiled([pool.submit(float, "1")]) == [1.0]


def test_whoever_judges_candidates_is_told_of_kills(tmp_path: Path) -> None:
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with RelayPool(1) as pool:
        library = RelayLibrary(tmp_path, TARGET, BLOCKING, {}, pool, linked=False)
        library._object_job = lambda kernels: pool.submit(exec, killed)  # type: ignore[method-assign]
        with pytest.raises(DeviceError, match="killed, twice") as caught:
            library.attempt([(KINDS[0], "")])
        assert caught.value.hint


@pytest.mark.parametrize(
    ("does", "times"), [("while True: pass", 1), ("import time; time.sleep(3600)", 2)]
)
def test_only_a_proved_hang_is_not_done_again(
    does: str, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hang, "SHARE", 0.05)  # other tests want the cores, too
    said = tmp_path / "said"
    with RelayProcess() as process:
        process.call(tvm_version)
        with pytest.raises(TimeoutError):
            process.insist(exec, f"print('x', file=open({str(said)!r}, 'a'))\n{does}", timeout_s=2)
    assert said.read_text() == "x\n" * times


def test_a_process_that_is_killed_while_it_starts_is_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    boot = DIE_ONCE.format(mark=str(mark)) + relay_env._BOOT
    monkeypatch.setattr(relay_env, "_BOOT", boot)
    with RelayPool(1) as pool:
        assert compiled([pool.submit(float, "1")]) == [1.0]
    assert mark.exists()


def test_jobs_of_a_pool_run_side_by_side() -> None:
    with RelayPool(2) as pool:
        jobs = [pool.submit(float, str(number)) for number in range(6)]
        assert compiled(jobs) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
        with pytest.raises(CompileError, match="Relay did not compile a kernel: could not"):
            compiled([pool.submit(float, "x")])
