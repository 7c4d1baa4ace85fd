"""Cycles of basic blocks by LLVM's model of a CPU, from llvm-mca, kept by the blocks' bytes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ofatvm.device.simulator.cache import NONSENSE, CacheFile, checked
from ofatvm.device.simulator.mix import classify
from ofatvm.device.simulator.tools import ToolError, Tools, run
from ofatvm.errors import CompileError

INSTRUCTIONS = 1500
"""About how many instructions of a repeated block llvm-mca looks at."""
TABLE = "blocks (code blob primary key, cycles real, mix text)"
REPEATS = (100, 50, 25, 12, 8)
ROUND_TRIP_CYCLES = 14.0
"""What an accumulator on the stack costs whenever it is added to: load, multiply-add and store.

llvm-mca takes a load not to depend on the stores before it. About what a Zen 4 needs for the store
to reach the load, and for the multiply-add.
"""
_REGION = re.compile(
    r"Code Region - b(\d+).*?Iterations:\s+(\d+).*?Total Cycles:\s+(\d+)", re.DOTALL
)
# A place on the stack without an index: -128(%rsp) of x86, [sp, #16] of ARM, 16(sp) of RISC-V.
_SLOT = re.compile(r"-?\d*\(%r[sb]p\)|\[(?:sp|x29|r11)(?:, #-?\d+)?\]|-?\d+\((?:sp|s0)\)")


@dataclass(frozen=True, slots=True)
class BlockCost:
    """Cycles of one execution of a block that follows itself, and its instructions by class."""

    cycles: float
    mix: Mapping[str, int]


class BlockCosts:
    """The costs of basic blocks on one CPU."""

    def __init__(self, tools: Tools, triple: str, cpu: str, folder: Path) -> None:
        """What is found is kept in `folder`, for all processes that simulate this CPU."""
        self.tools, self.triple, self.cpu = tools, triple, cpu
        source = Path(__file__).read_bytes()
        key = f"{tools.version} {triple} {cpu}".encode() + source
        name = f"blocks-{hashlib.sha256(key).hexdigest()[:12]}.sqlite"
        self._file = CacheFile(folder / name, TABLE)
        self._known: dict[bytes, BlockCost] = {}
        with self._file.opened() as database:
            for row in database.execute("select code, cycles, mix from blocks"):
                with contextlib.suppress(*NONSENSE):  # asked for again
                    self._known[row[0]] = _cost(*row[1:])

    def __call__(self, blocks: Sequence[tuple[bytes, int]]) -> list[BlockCost]:
        """The cost of each block of (bytes, number of instructions)."""
        new = {code: count for code, count in blocks if code not in self._known}
        if new:
            found = self.ask(list(new.items()))
            rows = [(code, cost.cycles, json.dumps(cost.mix)) for code, cost in found.items()]
            with self._file.opened() as database:
                database.executemany("insert or replace into blocks values (?, ?, ?)", rows)
            self._known |= found
        return [self._known[code] for code, _ in blocks]

    def ask(self, blocks: Sequence[tuple[bytes, int]]) -> dict[bytes, BlockCost]:
        """Ask llvm-mca, all blocks of about the same length at once, whatever is known."""
        texts = self._disassemble(blocks)
        groups: dict[int, list[int]] = {}
        for number, (_, count) in enumerate(blocks):
            enough = (r for r in REPEATS if r * count <= INSTRUCTIONS)
            groups.setdefault(next(enough, REPEATS[-1]), []).append(number)
        found: dict[bytes, BlockCost] = {}
        for repeats, numbers in groups.items():
            for number, cycles in self._simulate(texts, numbers, repeats).items():
                lines = texts[number].splitlines()
                cycles = max(cycles, ROUND_TRIP_CYCLES * stack_round_trips(lines))
                mix = Counter(name for line in lines for name in classify(line, self.triple))
                found[blocks[number][0]] = BlockCost(cycles, dict(mix))
        return found

    def _simulate(
        self, texts: Sequence[str], numbers: Sequence[int], repeats: int
    ) -> dict[int, float]:
        regions = [f"# LLVM-MCA-BEGIN b{n}\n{texts[n]}\n# LLVM-MCA-END b{n}\n" for n in numbers]
        words: list[str | Path] = [self.tools.mca, f"-mtriple={self.triple}", f"-mcpu={self.cpu}"]
        words += [f"-iterations={repeats}", "-all-views=false", "-summary-view"]
        try:
            out = run(words, "llvm-mca", given="".join(regions))
        except CompileError as error:
            if len(numbers) > 1:
                half = len(numbers) // 2
                return self._simulate(texts, numbers[:half], repeats) | self._simulate(
                    texts, numbers[half:], repeats
                )
            first = " ".join(texts[numbers[0]].partition("\n")[0].split())
            raise CompileError(
                f"LLVM's model of {self.cpu} cannot time the block at {first!r}: {error.message}"
            ) from None
        found = {int(n): int(cycles) / int(rounds) for n, rounds, cycles in _REGION.findall(out)}
        if set(found) != set(numbers):
            raise ToolError(f"{self.tools.mca} gives no cycles: {' '.join(out[:160].split())}")
        return found

    def _disassemble(self, blocks: Sequence[tuple[bytes, int]]) -> list[str]:
        """Each block as assembly."""
        given = "".join(" ".join(f"0x{byte:02x}" for byte in code) + "\n" for code, _ in blocks)
        words: list[str | Path] = [
            self.tools.mc,
            "--disassemble",
            f"-triple={self.triple}",
            f"-mcpu={self.cpu}",
        ]
        out = run(words, "llvm-mc", given=given)
        lines = [
            line for line in out.splitlines() if line.strip() and not line.strip().startswith(".")
        ]
        if len(lines) != sum(count for _, count in blocks):
            if len(blocks) == 1:
                return ["\n".join(lines)]
            return [text for block in blocks for text in self._disassemble([block])]
        texts, at = [], 0
        for _, count in blocks:
            texts.append("\n".join(lines[at : at + count]))
            at += count
        return texts


def _cost(cycles: object, mix: str) -> BlockCost:
    """What was kept of a block; one of NONSENSE if it is damaged."""
    counts = {str(name): int(count) for name, count in json.loads(mix).items()}
    return BlockCost(checked(cycles), counts)


def stack_round_trips(lines: Sequence[str]) -> int:
    """How often a block takes a value from the stack and puts it back, for its next execution.

    Counted for the place where that happens most often, among those that the block reads first.
    """
    trips: dict[str, int] = {}
    pending: set[str] = set()
    for line in lines:
        text = line.partition("#" if "%" in line else "//")[0].strip()
        match = _SLOT.search(text)
        if match is None:
            continue
        slot = match.group()
        store = text.endswith(slot) if "%" in text else text.startswith(("st", "vst", "fs", "sw"))
        if not store:
            trips.setdefault(slot, 0)
            pending.add(slot)
        elif slot not in trips:
            trips[slot] = -len(lines)  # written first: nothing comes from the execution before
        elif slot in pending:
            trips[slot] += 1
            pending.discard(slot)
    return max([0, *trips.values()])
