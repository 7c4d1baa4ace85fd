"""Simulate steps on a target's CPU: link, run under qemu with the plugin, cost what was counted."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from ofatvm.compiler.llvm import compile_ir, triple
from ofatvm.compiler.program import Step
from ofatvm.device.simulator.cost import Costing, StepCost, step_costs
from ofatvm.device.simulator.counts import read_counts
from ofatvm.device.simulator.guest import link_guest
from ofatvm.device.simulator.mca import BlockCost, BlockCosts
from ofatvm.device.simulator.tools import (
    WAYS_ON,
    ToolError,
    Tools,
    find_tools,
    last_words,
    start,
)
from ofatvm.errors import CompileError, DeviceError, MeasurementError
from ofatvm.files import scratch
from ofatvm.machine import Machine
from ofatvm.target import Target

PASSES = 2
"""The caches are empty in the first; the second is what counts."""
TIMEOUT_S = 300.0
CRASHES = (
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGILL,
    signal.SIGFPE,
    signal.SIGTRAP,
    signal.SIGABRT,
)
"""What code brings upon itself; qemu ends as its guest does."""
NO_MEMORY = 12
"""The code that guest.c ends with where its tensors cannot be mapped."""
_SOURCES = ("../simulated", "cost", "counts", "guest", "mca", "mix", "simulate")


def machine_of_target(target: Target) -> Machine:
    """The target's machine; DeviceError if its description has none."""
    if target.machine is None:
        raise DeviceError(
            f"the simulated device knows nothing of the caches and the clock of {target.name}",
            hint="use a target file with a [machine] table, as targets/raspberry-pi-4.toml, or a "
            "board: --device rpc://HOST:PORT/KEY",
        )
    return target.machine


def simulator_digest(target: Target, folder: Path) -> str:
    """12 hex digits over all that simulated latencies depend on beside the code that is run."""
    machine = machine_of_target(target)
    tools = find_tools(triple(target), machine.model, folder)
    sources = [(Path(__file__).parent / f"{name}.py").read_bytes() for name in _SOURCES]
    text = f"{tools.version} {machine} {target.threads} {target.fingerprint}".encode()
    return hashlib.sha256(b"".join([text, *sources])).hexdigest()[:12]


def simulate(
    target: Target,
    steps: Sequence[Step],
    sizes: Sequence[int],
    objects: Iterable[Path],
    folder: Path,
) -> list[StepCost]:
    """What each step costs on the target, when all have run once before.

    `sizes` are the float32 numbers of input, weights, workspace and output. `folder` keeps what
    simulations have in common. Raises MeasurementError if the code crashes or hangs under qemu,
    CompileError if a tool refuses it, and DeviceError if the tools do not work at all.
    """
    _, costing = _prepared(triple(target), machine_of_target(target).model, folder)
    try:
        return _simulated(target, steps, sizes, objects, folder, costing)
    except (CompileError, MeasurementError):
        _prove(target, folder)
        raise


def _simulated(
    target: Target,
    steps: Sequence[Step],
    sizes: Sequence[int],
    objects: Iterable[Path],
    folder: Path,
    costing: Costing,
) -> list[StepCost]:
    machine = machine_of_target(target)
    tools, _ = _prepared(triple(target), machine.model, folder)
    with scratch("simulated") as room:
        program, counts = room / "guest", room / "counts"
        link_guest(tools, target, steps, sizes, objects, program, passes=PASSES)
        _run(tools, machine, target.threads, program, counts)
        costs = step_costs(read_counts(counts), costing, machine)
    if len(costs) != len(steps):
        raise ToolError(f"{tools.qemu} counted {len(costs)} of {len(steps)} steps")
    return costs


def _prove(target: Target, folder: Path) -> None:
    """ToolError if not even a step that does nothing can be simulated, and costed anew."""
    _, known = _prepared(triple(target), machine_of_target(target).model, folder)

    def costing(blocks: Sequence[tuple[bytes, int]]) -> list[BlockCost]:
        found = known.ask(blocks)
        return [found[code] for code, _ in blocks]

    with scratch("simulated") as room:
        path = room / "nothing.o"
        text = "define void @nothing(i32 %task, i32 %tasks, ptr %x) {\n  ret void\n}"
        compile_ir(text, target, path)
        step = Step("nothing", False, (("x", 0),))
        try:
            _simulated(target, [step], (1, 1, 1, 1), [path], folder, costing)
        except (CompileError, MeasurementError) as error:
            raise ToolError(f"not even a step that does nothing works: {error.message}") from None


@lru_cache(maxsize=4)
def _prepared(triple: str, model: str, folder: Path) -> tuple[Tools, BlockCosts]:
    tools = find_tools(triple, model, folder)
    return tools, BlockCosts(tools, triple, model, folder)


def _run(tools: Tools, machine: Machine, cores: int, program: Path, counts: Path) -> None:
    levels = [
        f"level={cache.size_kib * 1024}:{cache.ways}:{int(cache.shared)}"
        for cache in machine.caches
    ]
    given = [f"file={tools.plugin}", f"out={counts}", f"cores={cores}"]
    given += [f"line={machine.line_bytes}", *levels]
    # Where qemu ends an argument at a comma, two of them are one.
    plugin = ",".join(word.replace(",", ",,") for word in given)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("QEMU_")}
    try:
        done = start(
            [tools.qemu.absolute(), "-cpu", tools.widest_cpu, "-plugin", plugin, program],
            "qemu",
            environment,
            within=program.parent,  # a guest that crashes leaves a core file where qemu started
            timeout_s=TIMEOUT_S,
            long=True,
        )
    except TimeoutError:
        raise MeasurementError(f"it ran longer than {TIMEOUT_S:.0f} s under qemu") from None
    if done.returncode:
        said = last_words(done)
        if "plugin" in said:
            own = [line for line in done.stderr.splitlines() if line.startswith("ofatvm plugin:")]
            said = [*own, said][0]
            raise DeviceError(f"qemu does not take the plugin: {said}", hint=WAYS_ON)
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
        if done.returncode < 0 and -done.returncode not in CRASHES:
            raise ToolError(f"qemu ended with {how}: {said}")
        if done.returncode == NO_MEMORY:
            raise ToolError("qemu has no memory for the tensors")
        raise MeasurementError(f"it ended with {how} under qemu: {said}")
