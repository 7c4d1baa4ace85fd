"""The Relay road: kernels, programs and shipped networks by TVM 0.19, in an environment of its own.

The same fusion plan as on the Relax road becomes Relay functions in NCHWc, each compiled once by
`relay.build` and kept; a subnet for measuring is a graph of the graph executor over them. What
ships is one library that `relay.build` makes of the whole network under the same configs.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import networkx as nx
import numpy as np

from ofatvm.compiler.digest import code_digest
from ofatvm.compiler.link import Tool, check_linked, find_linker, linked_triple
from ofatvm.compiler.plan import KernelCall, Workload, kernel_calls
from ofatvm.compiler.program import Step
from ofatvm.compiler.relax import Program, Weights
from ofatvm.compiler.relay_env import (
    RelayError,
    RelayPool,
    compiled,
    raise_if_killed,
    relay_versions,
)
from ofatvm.compiler.relay_graph import KernelGraph, kernel_program, network_graph
from ofatvm.compiler.relay_plain import (
    PLAIN,
    kernel_steps,
    network_steps,
    read_plain,
    write_plain,
)
from ofatvm.compiler.space import VectorUnit
from ofatvm.elf import elf_machine, is_whole_object
from ofatvm.errors import BundleError, CompileError
from ofatvm.files import replace_file
from ofatvm.relay.blocks import Blocking, Config, bias_shape, pack_weight
from ofatvm.relay.build import CALLS, KernelJob, build_network, compile_kernels
from ofatvm.relay.objects import PlainKernel, compile_objects
from ofatvm.relay.task import task_key
from ofatvm.target import Target

LARGE_IMAGES = 64
"""Pixels a side from which on a block of channels has two vectors; see docs/decisions.md."""
_JOBS = 8


@dataclass(frozen=True, slots=True)
class RelayKernel:
    """A compiled workload: `path` is the graph that runs it alone, its library lies beside it."""

    workload: Workload
    config: Config
    digest: str
    path: Path
    tuned: bool
    blocking: Blocking

    @property
    def symbol(self) -> str:
        """The prefix of its functions' names."""
        return f"{self.workload.key}_{self.digest[:8]}"

    @property
    def library(self) -> Path:
        """The shared library with its functions."""
        return self.path.with_suffix(".so")

    @property
    def plain(self) -> PlainKernel:
        """What its object file holds."""
        return read_plain(self.path.with_suffix(PLAIN))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers in the tensors of its steps; the graph needs none, as it says what it takes."""
        return self._alone[1] if self.path.with_suffix(PLAIN).is_file() else ()

    @property
    def steps(self) -> tuple[Step, ...]:
        """See `CompiledKernel.steps`; where kernels are libraries, the executor calls them."""
        return self._alone[0]

    @property
    def objects(self) -> tuple[Path, ...]:
        """See `CompiledKernel.objects`."""
        return (self.path.with_suffix(".o"),)

    @property
    def _alone(self) -> tuple[tuple[Step, ...], tuple[int, ...]]:
        return kernel_steps(self.workload, self.plain, self.blocking)


class RelayLibrary:
    """The compiled kernels of one target in a cache folder, as `KernelLibrary` elsewhere."""

    def __init__(
        self,
        folder: Path,
        target: Target,
        blocking: Blocking,
        records: Mapping[str, Config],
        pool: RelayPool,
        *,
        linked: bool = True,
    ) -> None:
        """`records` maps task keys to the best known configs; `pool` compiles.

        Without `linked` kernels are object files of plain functions, for a simulation.
        """
        self.linked = linked
        self.folder = folder / target.fingerprint / "relay"
        self.target = target
        self.blocking = blocking
        self.records = records
        self.pool = pool

    def kernel(self, workload: Workload) -> RelayKernel:
        """What the workload compiles to, whether it is there already or not."""
        config = self.records.get(task_key(workload), "") if workload.is_compute else ""
        return self._under(workload, config)

    def _under(self, workload: Workload, config: Config) -> RelayKernel:
        digest = _kernel_digest(workload, config, self.target, self.blocking)
        path = self.folder / f"{digest}.json"
        return RelayKernel(workload, config, digest, path, bool(config), self.blocking)

    def attempt(
        self, candidates: Sequence[tuple[Workload, Config]]
    ) -> list[RelayKernel | Exception]:
        """Compile object files of workloads under other configs than the records'.

        Each one's kernel, or RelayError or TimeoutError with what Relay said. DeviceError if
        processes are killed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        kernels = [self._under(*candidate) for candidate in candidates]
        jobs = [self._object_job([kernel]) for kernel in kernels]
        found: list[RelayKernel | Exception] = []
        for kernel, job in zip(kernels, jobs, strict=True):
            try:
                write_plain(kernel.path.with_suffix(PLAIN), job.result()[0])
                found.append(kernel)
            except (RelayError, TimeoutError) as error:
                raise_if_killed(error)
                found.append(error)
        return found

    def missing(self, workloads: Iterable[Workload]) -> list[RelayKernel]:
        """The kernels that would have to be compiled for these workloads."""
        kernels = {self.kernel(workload) for workload in workloads}
        return sorted(
            (k for k in kernels if not _is_compiled(k, linked=self.linked)), key=lambda k: k.symbol
        )

    def require(self, workloads: Iterable[Workload]) -> dict[Workload, RelayKernel]:
        """All kernels for these workloads, compiling what is missing.

        Raises CompileError naming what Relay said.
        """
        distinct = sorted(set(workloads))
        missing = self.missing(distinct)
        self.folder.mkdir(parents=True, exist_ok=True)
        size = max(1, min(_JOBS, len(missing) // 4))
        chunks = [missing[i : i + size] for i in range(0, len(missing), size)]
        if self.linked:
            self._compile_libraries(chunks)
        else:
            self._compile_objects(chunks)
        return {workload: self.kernel(workload) for workload in distinct}

    def _compile_libraries(self, chunks: Sequence[Sequence[RelayKernel]]) -> None:
        compiled(
            self.pool.submit(
                compile_kernels,
                [KernelJob(k.workload, k.config, k.symbol, str(k.library)) for k in chunk],
                self.target.to_dict(),
                self.blocking,
                self._linker,
            )
            for chunk in chunks
        )
        for kernel in (kernel for chunk in chunks for kernel in chunk):
            graph = kernel_program(kernel.workload, kernel_graph(kernel), self.blocking)
            _write(kernel.path, [kernel], graph)

    def _compile_objects(self, chunks: Sequence[Sequence[RelayKernel]]) -> None:
        jobs = [self._object_job(chunk) for chunk in chunks]
        for chunk, made in zip(chunks, compiled(jobs), strict=True):
            for kernel, plain in zip(chunk, made, strict=True):
                write_plain(kernel.path.with_suffix(PLAIN), plain)

    def _object_job(self, kernels: Sequence[RelayKernel]) -> Future[list[PlainKernel]]:
        return self.pool.submit(
            compile_objects,
            [KernelJob(k.workload, k.config, k.symbol, str(k.objects[0])) for k in kernels],
            self.target.to_dict(),
            self.blocking,
        )

    def program(self, graph: nx.DiGraph[str], path: Path) -> Program:
        """The program of a graph for measuring, written to `path` where kernels are linked."""
        calls = kernel_calls(graph)
        kernels = self.require(call.workload for call in calls)
        if not self.linked:
            plain = {workload: kernel.plain for workload, kernel in kernels.items()}
            steps, sizes = network_steps(calls, plain, self.blocking)
            return Program(path, tuple(kernels.values()), sizes, steps)
        graphs = {workload: kernel_graph(kernel) for workload, kernel in kernels.items()}
        _write(path, list(kernels.values()), network_graph(calls, graphs, self.blocking))
        return Program(path, tuple(kernels.values()), ())

    def build_model(self, graph: nx.DiGraph[str], weights: Weights, path: Path) -> int:
        """Compile a graph with its weights into one library at `path`; its number of kernel calls.

        It is the graph executor's: graph and weights are inside. float32 (1, height, width,
        channels) `x` -> (1, classes).
        """
        calls = kernel_calls(graph)
        configs = {call.workload: self.kernel(call.workload).config for call in calls}
        packed = pack_weights(calls, weights, self.blocking)
        job = self.pool.submit(
            build_network,
            calls,
            configs,
            packed,
            self.target.to_dict(),
            self.blocking,
            str(path),
            self._linker,
        )
        made: int = compiled([job])[0]
        check_linked(path, self.target)
        return made

    @property
    def _linker(self) -> Tool:
        return find_linker(linked_triple(self.target))


def blocking_of(unit: VectorUnit, resolution: int) -> Blocking:
    """How channels are cut for a CPU's vectors and networks of a resolution."""
    vectors = 1 if resolution < LARGE_IMAGES else 2
    return Blocking(unit.lanes, unit.lanes * vectors)


def pack_weights(
    calls: Sequence[KernelCall], weights: Weights, blocking: Blocking
) -> dict[str, list[np.ndarray]]:
    """Each node's weight and bias in the layouts that the kernels read."""
    packed: dict[str, list[np.ndarray]] = {}
    for call in calls:
        if not call.weights:
            continue
        weight, bias = weights[call.weights]
        arrays = [pack_weight(weight, call.workload, blocking)]
        if bias is not None:
            shape = bias_shape(call.workload, blocking)
            arrays.append(np.ascontiguousarray(bias, dtype=np.float32).reshape(shape))
        packed[call.weights] = arrays
    return packed


def kernel_graph(kernel: RelayKernel) -> KernelGraph:
    """The calls that a compiled kernel consists of."""
    path = kernel.library.with_suffix(CALLS)
    try:
        value: KernelGraph = json.loads(path.read_bytes())
    except (OSError, ValueError):
        raise CompileError(
            f"{path} is damaged", hint="delete it, and the same command continues"
        ) from None
    return value


def _is_compiled(kernel: RelayKernel, *, linked: bool) -> bool:
    if not linked:
        return kernel.path.with_suffix(PLAIN).is_file() and is_whole_object(kernel.objects[0])
    try:
        elf_machine(kernel.library)
        json.loads(kernel.path.read_bytes())
    except (OSError, ValueError, BundleError):
        return False
    return kernel.library.with_suffix(CALLS).is_file()


def _write(path: Path, kernels: Sequence[RelayKernel], graph: Mapping[str, object]) -> None:
    # Relative, so that the folder of a workspace may be moved.
    home = path.resolve().parent
    libraries = [os.path.relpath(kernel.library.resolve(), home) for kernel in kernels]
    replace_file(path, json.dumps({"kernels": libraries, "graph": graph}).encode())


def _kernel_digest(workload: Workload, config: Config, target: Target, blocking: Blocking) -> str:
    parts = [
        workload.key,
        config,
        target.fingerprint,
        [blocking.lanes, blocking.most],
        code_digest("relay", json.dumps(relay_versions(), sort_keys=True)),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
