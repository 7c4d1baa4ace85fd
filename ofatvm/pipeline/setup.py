"""What every stage works with: target, space, records, kernel library, tables and workers."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ofatvm.arch import Arch, ArchSpace
from ofatvm.compiler.plan import Workload, kernel_calls
from ofatvm.compiler.space import VectorUnit
from ofatvm.errors import CompileError, MissingInputError, TargetError
from ofatvm.events import Event, Notice, ignore
from ofatvm.graph import operator_graph
from ofatvm.paths import data_dir
from ofatvm.pipeline.device_choice import SIMULATED, choose_device
from ofatvm.spaces import find_space
from ofatvm.target import Target

if TYPE_CHECKING:
    from ofatvm.compiler.kernels import KernelLibrary
    from ofatvm.predict.features import SpaceTables
    from ofatvm.tuning.records import Records

T = TypeVar("T")
CALIBRATION = (
    Workload("pointwise", (14, 14, 112), (14, 14, 672), activation="h_swish"),
    Workload("depthwise", (112, 112, 48), (112, 112, 48), kernel=3, activation="relu"),
)
TUNING_LOGS = Path("tuning_logs")
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Setup:
    """A target and a space at one resolution, with the kernels that records give them.

    A GPU has no vector `unit`, no records and no kernel library: see `pipeline.gpu`.
    """

    target: Target
    unit: VectorUnit | None
    space: ArchSpace
    workspace: Path
    tuning_logs: Path
    executor: Executor
    device: str = "local"
    allow_network: bool = False

    @property
    def gpu(self) -> bool:
        """Whether networks are compiled for an NVIDIA GPU."""
        return self.target.kind == "cuda"

    @property
    def vectors(self) -> VectorUnit:
        """The vector unit that kernels are tuned and compiled for; TargetError if there is none."""
        if self.unit is None:
            raise TargetError(
                f"{self.target.name} is a GPU: its kernels use dlight's schedules, and tuning them "
                "with MetaSchedule is not there",
                hint="compile and search need no tuning; tune llvm targets",
            )
        return self.unit

    @property
    def linked(self) -> bool:
        """Whether the device runs linked libraries; a simulation links for itself."""
        return self.device != SIMULATED

    @property
    def resolution(self) -> int:
        """The one resolution the space is restricted to."""
        return self.space.resolutions[-1]

    @cached_property
    def records(self) -> Records:
        """The best known schedules for the target."""
        from ofatvm.tuning.records import Records, find_records

        if self.gpu:
            return Records({}, {})
        folders = [self.tuning_logs, data_dir("tuning_logs")]
        return find_records(self.target, folders, self.unit)

    @cached_property
    def library(self) -> KernelLibrary:
        """The kernel library of the target."""
        from ofatvm.compiler.kernels import KernelLibrary

        folder = self.workspace / "kernels"
        configs = self.records.configs
        return KernelLibrary(
            folder, self.target, self.vectors, configs, self.executor, linked=self.linked
        )

    @cached_property
    def tables(self) -> SpaceTables:
        """Vectorised MACs, sizes and memory of the space."""
        from ofatvm.predict.features import SpaceTables

        return SpaceTables.build(self.space)

    def workloads(self, archs: Sequence[Arch]) -> set[Workload]:
        """The distinct workloads of some architectures."""
        return {call.workload for arch in archs for call in kernel_calls(operator_graph(arch))}


def program_path(folder: Path, arch: Arch, digest: str) -> Path:
    """Where the program of an architecture over kernels with this digest is built."""
    return folder / f"{arch.encode().replace('/', '_')}-{digest}.so"


def built(jobs: Sequence[Future[T]]) -> list[T]:
    """What the setup's worker processes made; CompileError if one of them died."""
    try:
        return [job.result() for job in jobs]
    except BrokenExecutor:
        raise CompileError(
            "a compiler process died while it built programs",
            hint="there may be too little memory; the same command continues",
        ) from None


def resolve_target(
    text: str, threads: int | None = None, on_event: Callable[[Event], None] = ignore
) -> Target:
    """The target of a --target value: `host`, a target string, JSON, a tag, a name or a file.

    What the text leaves out and was filled in is said as a notice.
    """
    from ofatvm.compiler.resolve import resolve

    target = resolve(text)
    if target.filled:
        on_event(Notice("info", f"target {target.name}: {'; '.join(target.filled)}"))
    return target if threads is None else target.with_threads(threads)


@contextmanager
def prepare(
    target_text: str,
    *,
    space_name: str,
    resolution: int | None,
    workspace: Path,
    threads: int | None = None,
    tuning_logs: Path = TUNING_LOGS,
    device: str = "auto",
    allow_network: bool = False,
    on_event: Callable[[Event], None] = ignore,
) -> Iterator[Setup]:
    """A Setup whose worker processes end with the block.

    Target, space and `device` (see `devices.choose_device`) are checked first.
    """
    space = find_space(space_name)
    space = space.at(resolution if resolution is not None else space.resolutions[-1])
    target = resolve_target(target_text, threads, on_event)
    unit = _unit(target)
    chosen = choose_device(device, target, allow_network=allow_network, on_event=on_event)
    with ProcessPoolExecutor(
        max_workers=len(os.sched_getaffinity(0)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
    ) as executor:
        setup = Setup(target, unit, space, workspace, tuning_logs, executor, chosen, allow_network)
        tell_about_records(setup, on_event)
        try:
            yield setup
        finally:
            executor.shutdown(cancel_futures=True)


def _unit(target: Target) -> VectorUnit | None:
    """The vector unit of a CPU; a GPU has none, but must have an arch."""
    if target.kind == "cuda":
        from ofatvm.compiler.gpu_nvcc import arch_number

        arch_number(target.arch)
        return None
    from ofatvm.compiler.isa import vector_unit

    return vector_unit(target)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it however it ends (Linux)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def tell_about_records(setup: Setup, on_event: Callable[[Event], None]) -> None:
    """Say whose records are used, and that some were damaged, if so."""
    records = setup.records
    for folder in records.foreign:
        on_event(
            Notice("warning", f"{folder} belongs to another target of that name and is not used")
        )
    if records.damaged:
        on_event(
            Notice(
                "warning",
                f"{records.damaged} damaged tuning trials were skipped; `ofatvm tune` repairs them",
            )
        )
    if setup.gpu:
        on_event(
            Notice("info", "kernels for GPUs use dlight's default schedules; none of them is tuned")
        )
    elif not records.configs:
        on_event(
            Notice(
                "warning",
                f"no tuning records for {setup.target.name}: default schedules are used; "
                "`ofatvm tune` with the same --target makes records",
            )
        )
    elif records.borrowed:
        names = ", ".join(name for name, count in records.sources.items() if count)
        on_event(
            Notice("info", f"{setup.target.name} has no records of its own: using those of {names}")
        )


def require_supernet_file(path: Path | None) -> None:
    """Raise MissingInputError if a weight file is named that does not exist."""
    if path is not None and not path.is_file():
        raise MissingInputError(f"no weight file {path}", hint="check --weights")
