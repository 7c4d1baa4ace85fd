"""The kernel library: each scheduled kernel compiled once per target and kept on disk.

A kernel is cached under (workload, schedule point, target fingerprint, TVM version, our own code
generation), as an object file with one symbol, which programs are linked from, and as a program of
its own, by which it is timed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import BrokenExecutor, Executor
from dataclasses import astuple, dataclass
from importlib import metadata
from pathlib import Path

from ofatvm.compiler import lower, program
from ofatvm.compiler.digest import code_digest
from ofatvm.compiler.link import link
from ofatvm.compiler.memory import FLOAT_BYTES, aligned
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.program import Base, Step
from ofatvm.compiler.schedule import ScheduleConfig, kernel_shapes
from ofatvm.compiler.space import VectorUnit, default_config
from ofatvm.elf import elf_machine, is_whole_object
from ofatvm.errors import BundleError, CompileError
from ofatvm.files import scratch
from ofatvm.target import Target


@dataclass(frozen=True, slots=True)
class Kernel:
    """One compiled kernel: where it is, and whether a tuning record chose its schedule.

    `path` is the program that runs it alone; its object file is beside it.
    """

    workload: Workload
    config: ScheduleConfig
    digest: str
    path: Path
    tuned: bool

    @property
    def symbol(self) -> str:
        """The function's name, unique over workloads and schedules."""
        return f"{self.workload.key}_{self.digest[:8]}"

    @property
    def object_path(self) -> Path:
        """The object file that programs are linked from."""
        return self.path.with_suffix(".o")

    @property
    def objects(self) -> tuple[Path, ...]:
        """See `CompiledKernel.objects`."""
        return (self.object_path,)

    @property
    def steps(self) -> tuple[Step, ...]:
        """See `CompiledKernel.steps`."""
        return (kernel_step(self.workload, self.config, self.symbol),)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers in the input, the weights, the workspace and the output of its own program."""
        return kernel_sizes(self.workload, self.config)


class KernelLibrary:
    """The compiled kernels of one target in a cache folder."""

    def __init__(
        self,
        folder: Path,
        target: Target,
        unit: VectorUnit,
        records: dict[str, ScheduleConfig],
        executor: Executor,
        *,
        linked: bool = True,
    ) -> None:
        """`records` maps workload keys to the best known schedules; `executor` compiles.

        Without `linked` there are object files only, and no programs that run a kernel alone.
        """
        self.folder = folder / target.fingerprint
        self.target = target
        self.unit = unit
        self.records = records
        self.executor = executor
        self.linked = linked
        self._defaults: dict[Workload, ScheduleConfig] = {}

    def kernel(self, workload: Workload) -> Kernel:
        """What the workload compiles to, whether it is there already or not."""
        config = self.records.get(workload.key) or self._defaults.get(workload)
        if config is None:
            # Enumerating schedules takes milliseconds, and every measurement asks anew.
            config = self._defaults[workload] = default_config(workload, self.unit)
        tuned = workload.key in self.records
        digest = kernel_digest(workload, config, self.target)
        return Kernel(workload, config, digest, self.folder / f"{digest}.so", tuned)

    def missing(self, workloads: Iterable[Workload]) -> list[Kernel]:
        """The kernels that would have to be compiled for these workloads."""
        kernels = {self.kernel(workload) for workload in workloads}
        return sorted(
            (kernel for kernel in kernels if not is_compiled(kernel, linked=self.linked)),
            key=lambda kernel: kernel.symbol,
        )

    def require(self, workloads: Iterable[Workload]) -> dict[Workload, Kernel]:
        """All kernels for these workloads, compiling what is missing.

        Raises CompileError naming the first workload that does not compile.
        """
        distinct = sorted(set(workloads))
        missing = self.missing(distinct)
        if missing:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Not one job each: a job's fixed cost is as large as a small kernel's compilation.
            size = max(1, min(12, len(missing) // 8))
            chunks = [missing[i : i + size] for i in range(0, len(missing), size)]
            jobs = [
                self.executor.submit(compile_kernels, chunk, self.target, linked=self.linked)
                for chunk in chunks
            ]
            try:
                for job in jobs:
                    job.result()
            except BrokenExecutor:
                raise CompileError(
                    "a compiler process died while it compiled kernels",
                    hint="memory or disk may be full; what is compiled is kept",
                ) from None
        return {workload: self.kernel(workload) for workload in distinct}


def is_compiled(kernel: Kernel, *, linked: bool = True) -> bool:
    """Whether a kernel's files are there from their first byte to their last.

    Power cuts and full disks leave shorter files, and loading one kills the process that does it.
    """
    try:
        if linked:
            elf_machine(kernel.path)
    except (FileNotFoundError, BundleError):
        return False
    return is_whole_object(kernel.object_path)


def kernel_digest(workload: Workload, config: ScheduleConfig, target: Target) -> str:
    """The cache key: everything that decides the machine code."""
    parts = [
        workload.key,
        astuple(config),
        target.fingerprint,
        _code_digest(),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _code_digest() -> str:
    return code_digest("relax", metadata.version("apache-tvm"))


def compile_kernels(kernels: Sequence[Kernel], target: Target, *, linked: bool = True) -> None:
    """Compile kernels, each into files of its own, replaced whole. Runs in a worker process."""
    for kernel in kernels:
        home = kernel.path.parent
        with scratch("kernel", home) as room:
            path, built = room / "kernel.so", room / "kernel.o"
            try:
                arguments = kernel.workload, kernel.config, kernel.symbol, target
                if linked:
                    build_kernel(*arguments, path, shared=home)
                else:
                    build_object(*arguments, built)
            except (RuntimeError, ValueError, TypeError) as error:
                text = str(error).strip().splitlines()
                raise CompileError(
                    f"kernel {kernel.workload.key} does not compile: "
                    f"{text[-1][:200] if text else ''}"
                ) from None
            built.replace(kernel.object_path)
            if linked:
                path.replace(kernel.path)


def build_kernel(
    workload: Workload,
    config: ScheduleConfig,
    symbol: str,
    target: Target,
    path: Path,
    *,
    shared: Path | None = None,
) -> None:
    """Compile one kernel into an object file beside `path`, and into its own program at `path`.

    `shared` is the folder that keeps what all programs have in common; that of `path` by itself.
    """
    object_path = path.with_suffix(".o")
    build_object(workload, config, symbol, target, object_path)
    own = path.with_suffix(".run.o")
    program.compile_program([kernel_step(workload, config, symbol)], target, own)
    first = entry(target, shared or path.parent)
    link(target, str(path), [str(first), str(own), str(object_path)])
    own.unlink()


def build_object(
    workload: Workload, config: ScheduleConfig, symbol: str, target: Target, path: Path
) -> None:
    """Compile one kernel into an object file with the one global `symbol`."""
    import tvm

    lower.compile_kernel(workload, config, symbol, tvm.target.Target(target.to_dict()), path)


def kernel_step(workload: Workload, config: ScheduleConfig, symbol: str) -> Step:
    """The call of a kernel alone; a scale and a residual lie in the workspace."""
    places, _ = _places(workload, config)
    return Step(symbol, bool(config.parallel), tuple(places))


def kernel_sizes(workload: Workload, config: ScheduleConfig) -> tuple[int, ...]:
    """How many numbers input, weights, workspace and output of a kernel's own program have."""
    return _places(workload, config)[1]


def _places(
    workload: Workload, config: ScheduleConfig
) -> tuple[list[tuple[Base, int]], tuple[int, ...]]:
    sizes = [FLOAT_BYTES * math.prod(shape) for shape in kernel_shapes(workload, config)]
    held = (1 + workload.bias) if workload.is_compute else 0
    places: list[tuple[Base, int]] = [("x", 0)]
    ends = {"weights": 0, "workspace": 0}
    for number, size in enumerate(sizes[1:-1]):
        base: Base = "weights" if number < held else "workspace"
        places.append((base, ends[base]))
        ends[base] += aligned(size)
    total = (sizes[0], ends["weights"], ends["workspace"], sizes[-1])
    return [*places, ("out", 0)], tuple(max(1, size // FLOAT_BYTES) for size in total)


def entry(target: Target, folder: Path) -> Path:
    """The object file of the packed function that all programs of a target start with."""
    import tvm

    digest = hashlib.sha256(f"{target.fingerprint}{_code_digest()}".encode()).hexdigest()[:16]
    path = folder / f"entry-{digest}.o"
    if not is_whole_object(path):
        with scratch("kernel", folder) as room:
            built = room / path.name
            program.compile_entry(tvm.target.Target(target.to_dict()), built)
            built.replace(path)
    return path
