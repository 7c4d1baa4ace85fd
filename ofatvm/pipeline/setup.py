"""What every stage works with: target, space, records, kernel library, tables and workers."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import platform
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ofatvm.arch import Arch, ArchSpace
from ofatvm.compiler.plan import Workload, kernel_calls
from ofatvm.compiler.space import VectorUnit
from ofatvm.errors import MissingInputError, TargetError
from ofatvm.events import Event, Notice, ignore
from ofatvm.graph import operator_graph
from ofatvm.paths import data_dir
from ofatvm.spaces import find_space
from ofatvm.target import Target, parse_target

if TYPE_CHECKING:
    from ofatvm.compiler.kernels import KernelLibrary
    from ofatvm.predict.features import SpaceTables
    from ofatvm.tuning.records import Records

CALIBRATION = (
    Workload("pointwise", (14, 14, 112), (14, 14, 672), activation="h_swish"),
    Workload("depthwise", (112, 112, 48), (112, 112, 48), kernel=3, activation="relu"),
)
TUNING_LOGS = Path("tuning_logs")
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Setup:
    """A target and a space at one resolution, with the kernels that records give them."""

    target: Target
    unit: VectorUnit
    space: ArchSpace
    workspace: Path
    tuning_logs: Path
    executor: Executor

    @property
    def resolution(self) -> int:
        """The one resolution the space is restricted to."""
        return self.space.resolutions[-1]

    @cached_property
    def records(self) -> Records:
        """The best known schedules for the target."""
        from ofatvm.tuning.records import find_records

        folders = [self.tuning_logs, data_dir("tuning_logs")]
        return find_records(self.target, folders, self.unit)

    @cached_property
    def library(self) -> KernelLibrary:
        """The kernel library of the target."""
        from ofatvm.compiler.kernels import KernelLibrary

        folder = self.workspace / "kernels"
        return KernelLibrary(folder, self.target, self.unit, self.records.configs, self.executor)

    @cached_property
    def tables(self) -> SpaceTables:
        """Vectorised MACs, sizes and memory of the space."""
        from ofatvm.predict.features import SpaceTables

        return SpaceTables.build(self.space)

    def workloads(self, archs: Sequence[Arch]) -> set[Workload]:
        """The distinct workloads of some architectures."""
        return {call.workload for arch in archs for call in kernel_calls(operator_graph(arch))}


def resolve_target(text: str, threads: int | None = None) -> Target:
    """The target of a --target value: `host`, or whatever `parse_target` reads."""
    from ofatvm.compiler.isa import host_target, with_family, with_triple

    target = host_target() if text.strip() == "host" else with_triple(parse_target(text))
    if threads is not None:
        target = target.with_threads(threads)
    return with_family(target)


def runs_here(target: Target) -> bool:
    """Whether this machine's CPU can run code compiled for the target."""
    from ofatvm.device.cpu_features import host_features, needed_features

    if target.mtriple and target.mtriple.split("-")[0] != platform.machine():
        return False
    return host_features().issuperset(needed_features(target))


@contextmanager
def prepare(
    target_text: str,
    *,
    space_name: str,
    resolution: int | None,
    workspace: Path,
    threads: int | None = None,
    tuning_logs: Path = TUNING_LOGS,
    on_event: Callable[[Event], None] = ignore,
) -> Iterator[Setup]:
    """A Setup whose worker processes end with the block. Target and space are checked first."""
    space = find_space(space_name)
    space = space.at(resolution if resolution is not None else space.resolutions[-1])
    target = resolve_target(target_text, threads)
    from ofatvm.compiler.isa import vector_unit

    unit = vector_unit(target)
    with ProcessPoolExecutor(
        max_workers=len(os.sched_getaffinity(0)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
    ) as executor:
        setup = Setup(target, unit, space, workspace, tuning_logs, executor)
        tell_about_records(setup, on_event)
        try:
            yield setup
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it however it ends (Linux)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def require_local(setup: Setup) -> None:
    """Raise unless the target's code runs on this machine, which is the only device so far."""
    if not runs_here(setup.target):
        raise TargetError(
            f"code for {setup.target.name} does not run on this machine",
            hint="`ofatvm describe` works for it; measuring and shipping need --target host",
        )
    cores = len(os.sched_getaffinity(0))
    if setup.target.threads > cores:
        raise TargetError(
            f"{setup.target.threads} threads asked for, this machine has {cores} cores",
            hint=f"give --threads {cores} or fewer",
        )


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
    if not records.configs:
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
