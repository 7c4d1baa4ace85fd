"""What a compiler makes, whichever it is: kernels that are compiled once, and a library of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ofatvm.compiler.plan import Workload
from ofatvm.compiler.program import Step


class CompiledKernel(Protocol):
    """One workload as machine code: where the program that runs it alone is, and whether tuned."""

    @property
    def workload(self) -> Workload:
        """What it computes."""
        ...

    @property
    def digest(self) -> str:
        """Everything that decides the machine code, as hex digits."""
        ...

    @property
    def path(self) -> Path:
        """The program that runs it alone."""
        ...

    @property
    def tuned(self) -> bool:
        """Whether a tuning record chose its schedule."""
        ...

    @property
    def symbol(self) -> str:
        """A name, unique over workloads and schedules."""
        ...

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many numbers the tensors of its own program have, where a device must know."""
        ...

    @property
    def steps(self) -> tuple[Step, ...]:
        """The calls of its own program, for a device that links for itself."""
        ...

    @property
    def objects(self) -> tuple[Path, ...]:
        """The object files with the functions of its steps."""
        ...


class Library(Protocol):
    """The kernels of one target, compiled when they are first needed."""

    def kernel(self, workload: Workload) -> CompiledKernel:
        """What the workload compiles to, whether it is there already or not."""
        ...

    def missing(self, workloads: Iterable[Workload]) -> Sequence[CompiledKernel]:
        """The kernels that would have to be compiled for these workloads."""
        ...

    def require(self, workloads: Iterable[Workload]) -> Mapping[Workload, CompiledKernel]:
        """All kernels for these workloads; CompileError naming what does not compile."""
        ...


def library_digest(kernels: Iterable[CompiledKernel]) -> str:
    """12 hex digits over the kernels a network uses."""
    text = ",".join(sorted({kernel.digest for kernel in kernels}))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
