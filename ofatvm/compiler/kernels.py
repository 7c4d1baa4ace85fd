"""The kernel library: each scheduled kernel compiled once per target and kept on disk.

A kernel is cached under (workload, schedule point, target fingerprint, TVM version, our own code
generation), as one shared library with one symbol. A subnet for measuring is a program over these.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import BrokenExecutor, Executor
from dataclasses import astuple, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from ofatvm.compiler import primfunc, schedule
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.schedule import ScheduleConfig, scheduled
from ofatvm.compiler.space import VectorUnit, default_config
from ofatvm.elf import elf_machine
from ofatvm.errors import BundleError, CompileError
from ofatvm.target import Target


@dataclass(frozen=True, slots=True)
class Kernel:
    """One compiled kernel: where it is, and whether a tuning record chose its schedule."""

    workload: Workload
    config: ScheduleConfig
    digest: str
    path: Path
    tuned: bool

    @property
    def symbol(self) -> str:
        """The function's name, unique over workloads and schedules."""
        return f"{self.workload.key}_{self.digest[:8]}"


class KernelLibrary:
    """The compiled kernels of one target in a cache folder."""

    def __init__(
        self,
        folder: Path,
        target: Target,
        unit: VectorUnit,
        records: dict[str, ScheduleConfig],
        executor: Executor,
    ) -> None:
        """`records` maps workload keys to the best known schedules; `executor` compiles."""
        self.folder = folder / target.fingerprint
        self.target = target
        self.unit = unit
        self.records = records
        self.executor = executor
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
            (kernel for kernel in kernels if not is_whole(kernel.path)),
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
                self.executor.submit(compile_kernels, chunk, self.target.to_dict())
                for chunk in chunks
            ]
            try:
                for job in jobs:
                    job.result()
            except BrokenExecutor:
                raise CompileError(
                    "a compiler process died while it compiled kernels",
                    hint="there may be too little memory; what is compiled is kept",
                ) from None
        return {workload: self.kernel(workload) for workload in distinct}


def is_whole(path: Path) -> bool:
    """Whether a shared library is there from its first byte to its last.

    Power cuts and full disks leave shorter files, and loading one kills the process that does it.
    """
    try:
        elf_machine(path)
    except (FileNotFoundError, BundleError):
        return False
    return True


def library_digest(kernels: Iterable[Kernel]) -> str:
    """12 hex digits over the kernels a network uses."""
    text = ",".join(sorted({kernel.digest for kernel in kernels}))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def kernel_digest(workload: Workload, config: ScheduleConfig, target: Target) -> str:
    """The cache key: everything that decides the machine code."""
    parts = [
        workload.key,
        astuple(config),
        target.fingerprint,
        _code_digest(),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@cache
def _code_digest() -> str:
    """Digest of what turns workloads into machine code: TVM's version and our own sources."""
    sources = [Path(str(module.__file__)).read_bytes() for module in (primfunc, schedule)]
    version = metadata.version("apache-tvm").encode()
    return hashlib.sha256(b"".join([version, *sources])).hexdigest()


def compile_kernels(kernels: Sequence[Kernel], target: dict[str, Any]) -> None:
    """Compile kernels, each into its own file, replaced whole. Runs in a worker process."""
    import tvm

    from ofatvm.compiler.link import link_host

    tvm_target = tvm.target.Target(target)
    for kernel in kernels:
        temporary = kernel.path.with_name(f".{kernel.path.name}.{os.getpid()}.so")
        try:
            function = scheduled(kernel.workload, kernel.config).mod["main"]
            function = function.with_attr("global_symbol", kernel.symbol)
            module = tvm.tirx.build(tvm.IRModule({kernel.symbol: function}), target=tvm_target)
            module.export_library(str(temporary), fcompile=link_host)
        except (RuntimeError, ValueError, TypeError) as error:
            text = str(error).strip().splitlines()
            raise CompileError(
                f"kernel {kernel.workload.key} does not compile: {text[-1][:200] if text else ''}"
            ) from None
        temporary.replace(kernel.path)
