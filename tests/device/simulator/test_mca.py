from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from ofatvm.device.simulator.mca import BlockCosts, stack_round_trips
from ofatvm.device.simulator.tools import Tools

X86 = """vmovups\t-128(%rsp), %ymm4
vfmadd231ps\t%ymm14, %ymm3, %ymm4    # ymm4 = (ymm3 * ymm14) + ymm4
vmovups\t%ymm4, -128(%rsp)""".splitlines()


def test_an_accumulator_on_the_stack_is_a_round_trip() -> None:
    assert stack_round_trips(X86) == 1
    assert stack_round_trips([*X86, *X86]) == 2
    arm = ["ldr\tq0, [sp, #16]", "fmla\tv0.4s, v1.4s, v2.4s", "str\tq0, [sp, #16]"]
    assert stack_round_trips(arm) == 1


def test_a_value_that_is_only_put_aside_is_none() -> None:
    assert stack_round_trips([X86[2], X86[0]]) == 0
    assert stack_round_trips([X86[0], X86[0]]) == 0
    assert stack_round_trips([X86[2], *X86]) == 0, "it is written first"


def test_other_memory_is_not_the_stack() -> None:
    assert stack_round_trips(["vmovups\t(%rbx), %ymm4", "vmovups\t%ymm4, (%rbx)"]) == 0
    indexed = ["vmovups\t8(%rsp,%rcx), %ymm4", "vmovups\t%ymm4, 8(%rsp,%rcx)"]
    assert stack_round_trips(indexed) == 0


def test_many_that_open_a_new_cache_at_once_wait_for_each_other(tmp_path: Path) -> None:
    tools = Tools(*[tmp_path] * 5, version="1", widest_cpu="max")
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        together = Barrier(8)

        def start(folder: Path = folder, together: Barrier = together) -> BlockCosts:
            together.wait()
            return BlockCosts(tools, "x86_64-linux-gnu", "znver3", folder)

        with ThreadPoolExecutor(8) as pool:
            found = [pool.submit(start) for _ in range(8)]
            assert all(job.result() for job in found)
