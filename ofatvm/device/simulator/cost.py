"""From counts to cycles: LLVM's cycles of each block, and what misses of the caches add.

A block is costed as if it followed itself: inner loops do, and they are nearly all of the time.
What a level of cache does not hold comes from the next, and a core keeps several such lines in
flight, so that a miss costs the next level's latency divided by their number; lines from memory
cost at least what its bandwidth allows. Threads of one kernel run at the same time: a kernel takes
as long as its slowest thread, and what they fetch from memory together is limited by its bandwidth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ofatvm.device.simulator.counts import Block, Counts
from ofatvm.device.simulator.guest import NETWORK
from ofatvm.device.simulator.mca import BlockCost
from ofatvm.machine import Machine

MOST_INSTRUCTIONS = 2000
Costing = Callable[[Sequence[tuple[bytes, int]]], list[BlockCost]]


@dataclass(frozen=True, slots=True)
class StepCost:
    """What one kernel call costs: cycles of its slowest thread, and all threads' instructions.

    `compute_cycles` are those of that thread's blocks, `memory_cycles` what misses add to them.
    `mix` counts instructions by class; one that loads and computes is in both.
    """

    compute_cycles: float
    memory_cycles: float
    instructions: int = 0
    mix: dict[str, int] = field(default_factory=dict, hash=False)

    @property
    def cycles(self) -> float:
        """All of them."""
        return self.compute_cycles + self.memory_cycles


def step_costs(counts: Counts, costing: Costing, machine: Machine) -> list[StepCost]:
    """The cost of every step in the last pass, in order."""
    last = max((part.number for part in counts.parts), default=0)
    parts = [part for part in counts.parts if part.number == last]
    runs = [list(joined(counts.blocks, part.executions)) for part in parts]
    # All blocks at once: a start of llvm-mca costs more than many blocks.
    every = [(block.code, block.instructions) for run in runs for block, _ in run]
    costs = iter(costing(every))
    steps: dict[int, list[_Share]] = {}
    for part, run in zip(parts, runs, strict=True):
        executed = sum(times * block.instructions for block, times in run)
        share = _Share(part.misses, executed, [(next(costs), times) for _, times in run])
        steps.setdefault(part.step, []).append(share)
    return [_step(shares, machine) for _, shares in sorted(steps.items())]


@dataclass(frozen=True, slots=True)
class _Share:
    """One thread's part of a step."""

    misses: tuple[int, ...]
    instructions: int
    runs: list[tuple[BlockCost, int]]


def _step(shares: Sequence[_Share], machine: Machine) -> StepCost:
    mix: Counter[str] = Counter()
    threads = []
    for share in shares:
        compute = sum(times * cost.cycles for cost, times in share.runs)
        threads.append((compute, memory_cycles(share.misses, machine)))
        for cost, times in share.runs:
            for name, count in cost.mix.items():
                mix[name] += times * count
    fetched = sum(share.misses[-1] for share in shares if share.misses) * machine.line_bytes
    # Bytes over bytes a nanosecond, in cycles: what memory needs at least for all threads together.
    least = fetched / machine.memory_gb_per_s * machine.clock_ghz
    compute, memory = max(threads, key=sum)
    executed = sum(share.instructions for share in shares)
    return StepCost(compute, max(memory, least - compute), executed, dict(mix))


def memory_cycles(misses: Sequence[int], machine: Machine) -> float:
    """What one thread's misses add to its cycles."""
    below = [cache.latency_cycles for cache in machine.caches[1:]]
    below.append(machine.memory_ns * machine.clock_ghz)
    waited = sum(count * latency for count, latency in zip(misses, below, strict=True))
    return waited / machine.misses_in_flight


def joined(blocks: dict[int, Block], executions: dict[int, int]) -> Iterable[tuple[Block, int]]:
    """The blocks that ran and how often; what qemu cut into pieces is put together again.

    Blocks that lie behind each other and ran equally often are one. What is not the network's code
    is left out.
    """
    found = {
        (blocks[number].address, times): blocks[number]
        for number, times in executions.items()
        if blocks[number].address >= NETWORK
    }
    ends = {(block.address + len(block.code), times) for (_, times), block in found.items()}
    for (address, times), block in sorted(found.items(), key=lambda item: item[0]):
        if (address, times) in ends:
            continue
        code, count = block.code, block.instructions
        while following := found.get((address + len(code), times)):
            if count >= MOST_INSTRUCTIONS:
                yield Block(address, count, code), times
                address, code, count = following.address, b"", 0
            code += following.code
            count += following.instructions
        yield Block(address, count, code), times
