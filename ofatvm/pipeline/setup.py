"""What every stage works with: target, space, records, kernel library, tables and workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ofatvm.arch import Arch, ArchSpace
from ofatvm.compiler.base import Library
from ofatvm.compiler.plan import Workload, kernel_calls
from ofatvm.compiler.space import VectorUnit
from ofatvm.errors import CompileError, MissingInputError, TargetError, UsageError
from ofatvm.events import Event, Notice, ignore
from ofatvm.executor import ChildExecutor
from ofatvm.graph import operator_graph
from ofatvm.measurement import Kind
from ofatvm.paths import data_dir
from ofatvm.pipeline.device_choice import SIMULATED, choose_device, require_relay
from ofatvm.road import Ir
from ofatvm.spaces import find_space
from ofatvm.target import Target
from ofatvm.text import counted

if TYPE_CHECKING:
    from ofatvm.compiler.kernels import KernelLibrary
    from ofatvm.compiler.relay import RelayLibrary
    from ofatvm.compiler.relay_env import RelayPool
    from ofatvm.compiler.schedule import ScheduleConfig
    from ofatvm.predict.features import SpaceTables
    from ofatvm.relay.blocks import Blocking, Config
    from ofatvm.tuning.records import Records
    from ofatvm.tuning.workloads import WorkloadUse

T = TypeVar("T")
CALIBRATION = (
    Workload("pointwise", (14, 14, 112), (14, 14, 672), activation="h_swish"),
    Workload("depthwise", (112, 112, 48), (112, 112, 48), kernel=3, activation="relu"),
)
TUNING_LOGS = Path("tuning_logs")


@dataclass(frozen=True)
class Setup:
    """A target and a space at one resolution, with the kernels that records give them.

    A GPU has no vector `unit` and no kernel library: see `pipeline.gpu`.
    """

    target: Target
    unit: VectorUnit | None
    space: ArchSpace
    workspace: Path
    tuning_logs: Path
    executor: Executor
    device: str = "local"
    allow_network: bool = False
    relay_pool: RelayPool | None = None
    """What compiles on the Relay road; None on the Relax road."""

    @property
    def ir(self) -> Ir:
        """Which road networks are compiled on."""
        return "relax" if self.relay_pool is None else "relay"

    @property
    def gpu(self) -> bool:
        """Whether networks are compiled for an NVIDIA GPU."""
        return self.target.kind == "cuda"

    @property
    def vectors(self) -> VectorUnit:
        """The vector unit that kernels are tuned and compiled for; TargetError if there is none."""
        if self.unit is None:
            raise TargetError(
                f"{self.target.name} is a GPU, which has no vector unit",
                hint="this needs an llvm target",
            )
        return self.unit

    @property
    def linked(self) -> bool:
        """Whether the device runs linked libraries; a simulation links for itself."""
        return self.device != SIMULATED

    @property
    def kind(self) -> Kind:
        """Whether the device's times are measured or simulated."""
        return "simulated" if self.device == SIMULATED else "measured"

    @property
    def resolution(self) -> int:
        """The one resolution the space is restricted to."""
        return self.space.resolutions[-1]

    @cached_property
    def records(self) -> Records[ScheduleConfig]:
        """The best known schedules for the target on the Relax road."""
        from ofatvm.tuning.records import find_records

        return find_records(self.target, self._record_folders, self.unit)

    @cached_property
    def traces(self) -> Records[str]:
        """The best known schedules of MetaSchedule's for a GPU."""
        from ofatvm.tuning.traces import find_traces

        return find_traces(self.target, self._record_folders)

    @cached_property
    def relay_records(self) -> Records[Config]:
        """The best known configs of AutoTVM's templates for the target."""
        from ofatvm.tuning.relay_records import find_relay_records

        return find_relay_records(self.target, self._record_folders, self.blocking, self.vectors)

    @cached_property
    def blocking(self) -> Blocking:
        """How the Relay road cuts channels."""
        from ofatvm.compiler.relay import blocking_of

        return blocking_of(self.vectors, self.resolution)

    @property
    def road_records(self) -> Records[ScheduleConfig] | Records[Config] | Records[str]:
        """The records of the road that networks are compiled on."""
        if self.gpu:
            return self.traces
        return self.records if self.relay_pool is None else self.relay_records

    @property
    def _record_folders(self) -> list[Path]:
        return [self.tuning_logs, data_dir("tuning_logs")]

    def coverage(
        self, workloads: Sequence[WorkloadUse], records: Collection[str] | None = None
    ) -> float:
        """Share of compute in workloads whose schedules come from records: the road's, or these."""
        from ofatvm.relay.task import task_key
        from ofatvm.tuning.workloads import coverage

        configs = self.road_records.configs if records is None else records
        if self.relay_pool is None:
            return coverage(workloads, configs)
        tuned = (u.workload for u in workloads if u.workload.is_compute)
        return coverage(workloads, [w.key for w in tuned if task_key(w) in configs])

    @cached_property
    def relax_library(self) -> KernelLibrary:
        """The kernel library of the target."""
        from ofatvm.compiler.kernels import KernelLibrary

        folder = self.workspace / "kernels"
        configs = self.records.configs
        return KernelLibrary(
            folder, self.target, self.vectors, configs, self.executor, linked=self.linked
        )

    @cached_property
    def relay_library(self) -> RelayLibrary:
        """The kernel library of the target on the Relay road."""
        from ofatvm.compiler.relay import RelayLibrary

        assert self.relay_pool is not None
        folder, configs = self.workspace / "kernels", self.relay_records.configs
        return RelayLibrary(
            folder, self.target, self.blocking, configs, self.relay_pool, linked=self.linked
        )

    @property
    def library(self) -> Library:
        """The kernel library of the road that networks are compiled on."""
        return self.relax_library if self.relay_pool is None else self.relay_library

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
            hint="memory or disk may be full; the same command continues",
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
    ir: Ir = "relax",
    on_event: Callable[[Event], None] = ignore,
) -> Iterator[Setup]:
    """A Setup whose worker processes end with the block.

    Target, space and `device` (see `devices.choose_device`) are checked first, and for the Relay
    road that its environment is there.
    """
    space = find_space(space_name)
    space = space.at(resolution if resolution is not None else space.resolutions[-1])
    target = resolve_target(target_text, threads, on_event)
    unit = _unit(target)
    if tuning_logs.exists() and not tuning_logs.is_dir():
        raise UsageError(f"--tuning-logs {tuning_logs} is no folder", hint="name one, or none")
    chosen = choose_device(device, target, allow_network=allow_network, on_event=on_event)
    if ir == "relay":
        require_relay(target, chosen)
    with ChildExecutor() as executor, ExitStack() as stack:
        pool = stack.enter_context(_relay_pool()) if ir == "relay" else None
        setup = Setup(
            target, unit, space, workspace, tuning_logs, executor, chosen, allow_network, pool
        )
        tell_about_records(setup, on_event)
        yield setup


def _unit(target: Target) -> VectorUnit | None:
    """The vector unit of a CPU; a GPU has none, but must have an arch."""
    if target.kind == "cuda":
        from ofatvm.compiler.gpu_nvcc import arch_number

        arch_number(target.arch)
        return None
    from ofatvm.compiler.isa import vector_unit

    return vector_unit(target)


def _relay_pool() -> RelayPool:
    from ofatvm.compiler.relay_env import RelayPool

    return RelayPool(len(os.sched_getaffinity(0)))


def tell_about_records(setup: Setup, on_event: Callable[[Event], None]) -> None:
    """Say whose records are used, and that some were damaged, if so."""
    records = setup.road_records
    road = "" if setup.ir == "relax" else f" --ir {setup.ir}"
    for folder in records.foreign:
        on_event(
            Notice("warning", f"{folder} belongs to another target of that name and is not used")
        )
    if records.damaged:
        on_event(
            Notice(
                "warning",
                f"{counted(records.damaged, 'damaged tuning trial')} skipped"
                + ("; `ofatvm tune` repairs them" if setup.ir == "relax" else ""),
            )
        )
    if setup.gpu and not records.configs:
        on_event(
            Notice(
                "info",
                "kernels for this GPU use dlight's default schedules, since none of them is tuned; "
                "`ofatvm tune` with --device rpc://HOST:PORT/KEY makes records",
            )
        )
    elif not records.configs:
        on_event(
            Notice(
                "warning",
                f"no tuning records for {setup.target.name}: default schedules are used; "
                f"`ofatvm tune{road}` with the same --target makes records",
            )
        )
    elif records.borrowed:
        names = ", ".join(name for name, count in records.sources.items() if count)
        own = setup.target.record_names[0]
        on_event(Notice("info", f"{own} has no records of its own: using those of {names}"))


def require_supernet_file(path: Path | None) -> None:
    """Raise MissingInputError if a weight file is named that does not exist."""
    if path is not None and not path.is_file():
        raise MissingInputError(f"no weight file {path}", hint="check --weights")
