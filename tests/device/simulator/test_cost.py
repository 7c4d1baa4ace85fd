from __future__ import annotations

from collections.abc import Sequence

import pytest

from ofatvm.device.simulator.cost import joined, memory_cycles, step_costs
from ofatvm.device.simulator.counts import Block, Counts, Part
from ofatvm.device.simulator.guest import NETWORK
from ofatvm.device.simulator.mca import BlockCost
from ofatvm.machine import Cache, Machine

MACHINE = Machine(
    model="cortex-a72",
    clock_ghz=2.0,
    caches=(Cache(32, 2, 4.0), Cache(1024, 16, 20.0, shared=True)),
    memory_ns=100.0,
    memory_gb_per_s=4.0,
    misses_in_flight=5,
)


def costing(blocks: Sequence[tuple[bytes, int]]) -> list[BlockCost]:
    """A cycle for each byte, and nothing but loads."""
    return [BlockCost(float(len(code)), {"load": count}) for code, count in blocks]


def part(step: int, task: int, runs: dict[int, int], misses: tuple[int, ...] = (0, 0)) -> Part:
    return Part(step, task, 1, misses, runs)


def test_pieces_of_one_block_are_put_together() -> None:
    blocks = {
        0: Block(NETWORK, 3, b"abc"),
        1: Block(NETWORK + 3, 2, b"de"),
        2: Block(NETWORK + 5, 1, b"f"),
    }
    assert [(b.code, b.instructions, n) for b, n in joined(blocks, {0: 5, 1: 5, 2: 9})] == [
        (b"abcde", 5, 5),
        (b"f", 1, 9),
    ]


def test_an_overlapping_block_is_none_of_the_pieces() -> None:
    blocks = {
        0: Block(NETWORK, 4, b"abcd"),
        1: Block(NETWORK + 2, 1, b"c"),
        2: Block(NETWORK + 3, 1, b"d"),
    }
    found = {b.code: n for b, n in joined(blocks, {0: 1, 1: 6, 2: 6})}
    assert found == {b"abcd": 1, b"cd": 6}


def test_very_long_blocks_lose_nothing() -> None:
    blocks = {i: Block(NETWORK + 400 * i, 400, bytes(400)) for i in range(12)}
    found = list(joined(blocks, dict.fromkeys(blocks, 3)))
    assert sum(b.instructions for b, _ in found) == 4800
    assert max(b.instructions for b, _ in found) <= 2400


def test_code_that_is_not_the_networks_is_not_counted() -> None:
    assert not list(joined({0: Block(NETWORK - 64, 9, b"x" * 9)}, {0: 5}))


def test_a_kernel_takes_as_long_as_its_slowest_thread() -> None:
    blocks = {0: Block(NETWORK, 2, b"ab")}
    counts = Counts(blocks, (part(0, 0, {0: 10}), part(0, 1, {0: 30}), part(1, 0, {0: 1})))
    first, second = step_costs(counts, costing, MACHINE)
    assert first.cycles == 60
    assert first.mix == {"load": 80}
    assert first.instructions == 80, "those of all threads"
    assert second.cycles == 2


def test_only_the_last_pass_counts() -> None:
    blocks = {0: Block(NETWORK, 1, b"a")}
    cold = Part(0, 0, 0, (500, 500), {0: 10})
    [cost] = step_costs(Counts(blocks, (cold, part(0, 0, {0: 10}))), costing, MACHINE)
    assert cost.cycles == 10


def test_a_miss_costs_the_next_level_shared_by_the_misses_in_flight() -> None:
    assert memory_cycles((10, 0), MACHINE) == pytest.approx(10 * 20 / 5)
    assert memory_cycles((10, 10), MACHINE) == pytest.approx(10 * 20 / 5 + 10 * 200 / 5)


def test_threads_together_get_no_more_than_the_memory_gives() -> None:
    blocks = {0: Block(NETWORK, 1, b"a")}
    threads = tuple(part(0, task, {0: 1}, (1000, 1000)) for task in range(8))
    [cost] = step_costs(Counts(blocks, threads), costing, MACHINE)
    # 8000 lines of 64 bytes at 4 bytes a nanosecond are 128,000 ns, which are 256,000 cycles.
    assert cost.cycles == pytest.approx(256_000)
