"""GPUs in the pipeline: what is compiled, what is refused, and what a bundle says of itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofatvm.arch import ArchSpace
from ofatvm.bundle.snapshot import read_manifest
from ofatvm.bundle.verify import verify_bundle
from ofatvm.compiler import gpu as compiler
from ofatvm.compiler.gpu import GpuBuild, GpuProgram
from ofatvm.compiler.gpu_nvcc import MachineCode
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.relax import Program
from ofatvm.device.timing import Latency, Protocol, Visit, summarise
from ofatvm.errors import DeviceError, RecordError, TargetError
from ofatvm.events import Event
from ofatvm.graph import operator_graph, totals
from ofatvm.pipeline import tune_gpu as tune_gpu_module
from ofatvm.pipeline import tuning_run
from ofatvm.pipeline.describe import describe
from ofatvm.pipeline.device_choice import NONE, choose_device, require_local
from ofatvm.pipeline.devices import open_device
from ofatvm.pipeline.gpu import gpu_digest
from ofatvm.pipeline.measure import known_times, measure, programs_for
from ofatvm.pipeline.setup import Setup, tell_about_records
from ofatvm.pipeline.ship import ship
from ofatvm.pipeline.tune_gpu import tune_gpu_space
from ofatvm.search.budget import Budget
from ofatvm.spaces import SMALL
from ofatvm.store import Store
from ofatvm.supernet.folder import SupernetFolder
from ofatvm.target import Target, target_from_dict
from ofatvm.tuning.journal import Trial
from ofatvm.tuning.records import database_damage, read_owner, write_owner
from ofatvm.tuning.traces import TraceJournal
from ofatvm.tuning.workers import Timing
from ofatvm.tuning.workloads import subnet_workloads
from tests.compiler.test_gpu import has_gpu
from tests.compiler.test_gpu_nvcc import needs_nvcc
from tests.workbench import QUICK, InlineExecutor

LIMITS = {
    "max_threads_per_block": 1024,
    "max_shared_memory_per_block": 49152,
    "thread_warp_size": 32,
}
HERE = target_from_dict(
    {
        "kind": "cuda",
        "arch": "sm_87",
        **LIMITS,
        "host": {"kind": "llvm", "mcpu": "x86-64-v2"},
    },
    name="gpu",
)
ORIN = target_from_dict(
    {
        "kind": "cuda",
        "arch": "sm_87",
        "host": {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a78"},
    },
    name="orin",
)


def gpu_setup(
    workspace: Path, target: Target = HERE, device: str = NONE, space: ArchSpace = SMALL
) -> Setup:
    return Setup(
        target=target,
        unit=None,
        space=space.at(space.resolutions[-1]),
        workspace=workspace,
        tuning_logs=workspace / "tuning_logs",
        executor=InlineExecutor(),
        device=device,
    )


class PretendGpu:
    """A network takes as long as its shapes are large."""

    name = "rpc:pretend"
    kind = "measured"

    def measure(
        self, programs: Sequence[Program], protocol: Protocol, *, seed: int, **_: Any
    ) -> list[Latency | str]:
        found: list[Latency | str] = []
        for program in programs:
            assert program.path.is_file()
            seconds = 1e-4 + 1e-9 * sum(int(np.prod(shape)) for shape in program.shapes)
            visits = [Visit(0, (seconds,) * 5, (1.0, 1.0))] * protocol.rounds
            found.append(summarise(visits, 1.0))
        return found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path) as opened:
        yield opened


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Programs that were built, which takes no time here."""
    built: list[Path] = []

    def build(graph: Any, target: Target, path: Path, traces: Any) -> GpuProgram:
        path.write_bytes(b"a program")
        built.append(path)
        return GpuProgram(GpuBuild(path, (), 1, "cubin"), ())

    monkeypatch.setattr(compiler, "build_gpu_program", build)
    return built


def test_without_a_board_there_is_no_device(tmp_path: Path, store: Store) -> None:
    assert choose_device("auto", HERE) == NONE
    for text in ("local", "simulated"):
        with pytest.raises(DeviceError, match="nothing here runs code for gpu") as caught:
            choose_device(text, HERE)
        assert "rpc://HOST:PORT/KEY" in caught.value.hint
    with pytest.raises(TargetError):
        require_local(HERE)
    with (
        pytest.raises(DeviceError, match="it needs its GPU"),
        open_device(gpu_setup(tmp_path), store),
    ):
        pass
    assert choose_device("rpc://127.0.0.1:9190/orin", HERE) == "rpc://127.0.0.1:9190/orin"


def test_tuning_needs_a_board(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="it needs its GPU") as caught:
        tune_gpu_space(gpu_setup(tmp_path), [28], trials_per_workload=1)
    assert "rpc://HOST:PORT/KEY" in caught.value.hint
    assert not (tmp_path / "tuning_logs").exists()


class PretendBench:
    """Every schedule takes as long as its trace is long, but the default one longest."""

    disturbed = 0

    def __enter__(self) -> PretendBench:
        return self

    def __exit__(self, *_: object) -> None: ...

    def measure(
        self, jobs: Sequence[tuple[Workload, str]], _: Timing
    ) -> list[tuple[tuple[float, ...], str]]:
        return [((1e-9 * (len(trace) or 10**6),), "") for _, trace in jobs]


def test_what_was_tuned_is_compiled_and_said(
    supernet: SupernetFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    setup = gpu_setup(tmp_path, space=supernet.space)
    arch = setup.space.smallest()
    use = max(subnet_workloads(arch), key=lambda use: use.macs)
    monkeypatch.setattr(tune_gpu_module, "open_gpu_bench", lambda *_, **__: PretendBench())
    monkeypatch.setattr(tuning_run, "space_workloads", lambda *_: [use])
    before = gpu_digest(setup, [arch])
    summary, covered, records = tune_gpu_space(setup, [28], trials_per_workload=3)
    assert (summary.new_trials, summary.complete, covered, records) == (3, 1, 1.0, 1)
    again, *_ = tune_gpu_space(setup, [28], trials_per_workload=3)
    assert (again.new_trials, again.trials) == (0, 3)
    folder = tmp_path / "tuning_logs" / "gpu"
    assert database_damage(folder) == ""
    assert read_owner(folder) == HERE.to_dict()
    said: list[Event] = []
    setup = gpu_setup(tmp_path, space=supernet.space)
    tell_about_records(setup, said.append)
    assert said == []
    assert setup.traces.configs.keys() == {use.workload.key}
    assert gpu_digest(setup, [arch]) != before
    assert setup.coverage(subnet_workloads(arch)) == pytest.approx(use.share)
    monkeypatch.setattr(
        compiler, "compile_kernels", lambda source, arch: MachineCode(b"x", "cubin")
    )
    bundle = ship(setup, arch, tmp_path / "bundle", weights=None, seed=1, supernet=supernet)
    manifest = read_manifest(bundle)
    assert "(cubin), 1 under tuned schedules, the others under" in manifest.notes[0]
    assert manifest.coverage == pytest.approx(use.share)


def test_a_record_of_another_gpu_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "tuning_logs" / "gpu"
    with TraceJournal.open(folder) as journal:
        write_owner(folder, ORIN, None, "measured")
        journal.append([Trial("dense_7_13", "[[],[]]", (1.0,))])
    setup, said = gpu_setup(tmp_path), list[Event]()
    tell_about_records(setup, said.append)
    assert setup.traces.configs == {}
    assert "belongs to another target" in str(said[0])
    with pytest.raises(RecordError, match="holds records of"):
        write_owner(folder, HERE, None, "measured")


def test_costs_that_need_no_gpu_are_described(tmp_path: Path) -> None:
    arch = SMALL.smallest()
    [found] = describe(gpu_setup(tmp_path), [arch])
    assert (found.macs, found.coverage) == (totals(operator_graph(arch)).macs, 0.0)
    assert found.predicted_latency_ms is None


def test_networks_are_built_once_and_their_latencies_kept(
    tmp_path: Path, store: Store, builds: list[Path]
) -> None:
    setup = gpu_setup(tmp_path)
    archs = [SMALL.smallest(), SMALL.largest()]
    programs = programs_for(setup, archs)
    assert programs == programs_for(setup, archs)
    assert len(builds) == 2
    found = measure(setup, store, PretendGpu(), archs, source="profile", protocol=QUICK)
    assert [m.kind for m in found] == ["measured", "measured"]
    assert not any(path.exists() for path in builds)
    again = measure(setup, store, PretendGpu(), archs, source="profile", protocol=QUICK)
    assert again == found
    assert len(builds) == 2
    other = gpu_setup(tmp_path, ORIN)
    measure(other, store, PretendGpu(), archs, source="profile", protocol=QUICK)
    assert len(builds) == 4


def test_what_is_known_of_a_network_is_its_macs(tmp_path: Path, store: Store) -> None:
    setup = gpu_setup(tmp_path)
    said: list[Event] = []
    table = known_times(setup, store, PretendGpu(), on_event=said.append)
    rows = setup.space.to_rows([SMALL.smallest(), SMALL.largest()])
    assert list(table(rows)) == list(setup.tables.macs(rows))
    assert "starts from MACs" in str(said[0])


@pytest.mark.slow
def test_a_search_measures_and_ends_in_a_bundle(
    tmp_path: Path, store: Store, builds: list[Path], quick_fit: None
) -> None:
    from ofatvm.pipeline.describe import accuracy_model
    from ofatvm.pipeline.model import load_latency
    from ofatvm.pipeline.search import search
    from ofatvm.pipeline.search_state import SearchConfig

    setup = gpu_setup(tmp_path)
    from ofatvm.cli.space_options import find_source

    source = find_source(None, None)
    config = SearchConfig(sample=24, per_round=4, rounds=1, finalists=3, population=40)
    found = search(
        setup, store, PretendGpu(), accuracy_model(setup.space, source.supernet), Budget(), config
    )
    assert found.front
    assert {point.measurement.device for point in found.front} == {"rpc:pretend"}
    assert load_latency(setup) is not None


def test_a_bundle_says_that_it_was_not_run(
    supernet: SupernetFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # nvcc is tried elsewhere: without it the kernels stay source.
    monkeypatch.setattr(
        compiler, "compile_kernels", lambda source, arch: MachineCode(b"x", "cubin", ("no nvcc",))
    )
    setup = gpu_setup(tmp_path, space=supernet.space)
    arch = setup.space.smallest()
    out = tmp_path / "bundle"
    bundle = ship(setup, arch, out, weights=None, seed=1, supernet=supernet)
    manifest = read_manifest(bundle)
    assert (manifest.target.arch, manifest.target.host) == ("sm_87", HERE.host)
    assert (manifest.coverage, manifest.latency) == (0.0, None)
    assert manifest.elf is not None
    assert manifest.verified is not None
    assert manifest.verified.how == "not run: needs an NVIDIA GPU"
    assert manifest.notes[0].endswith("(cubin), all under dlight's default schedules")
    assert manifest.notes[1:] == ("no nvcc", compiler.NOT_RUN)
    card = (bundle / "README.md").read_text()
    assert "It runs on an NVIDIA GPU of sm_87 and nowhere else, and it was never run" in card
    assert "-ltvm_runtime_cuda" in card
    assert "(kind cuda, arch sm_87, " in card
    assert ", host (kind llvm, num-cores " in card
    assert "kDevice = kDLCUDA" in (bundle / "main.cc").read_text()
    report = verify_bundle(bundle)
    assert not report.ran
    assert {check.detail for check in report.checks if check.status == "not run"} == {
        "needs an NVIDIA GPU"
    }
    runner = subprocess.run(
        [sys.executable, bundle / "run.py", bundle / "sample" / "image.png"],
        capture_output=True,
        text=True,
        check=False,
    )
    if not has_gpu():
        assert runner.returncode == 4
        assert runner.stderr.startswith("error: this network needs an NVIDIA GPU, its driver")
        assert len(runner.stderr.splitlines()) == 1


@needs_nvcc
@pytest.mark.slow
def test_nvcc_compiles_the_kernels_of_a_bundle(supernet: SupernetFolder, tmp_path: Path) -> None:
    setup = gpu_setup(tmp_path, ORIN, space=supernet.space)
    arch = setup.space.smallest()
    bundle = ship(setup, arch, tmp_path / "b", weights=None, seed=1, supernet=supernet)
    manifest = read_manifest(bundle)
    assert manifest.machine == "aarch64"
    assert "as machine code (cubin)" in manifest.notes[0]
