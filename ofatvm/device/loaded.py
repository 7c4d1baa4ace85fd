"""A program loaded into this process or, through a session with a board, onto that; its calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from ofatvm.compiler.program import FORWARD

ESTIMATE_REPEATS = 4
POOL = 1 << 22


@dataclass(frozen=True, slots=True)
class LoadedProgram:
    """A library with the packed function `forward`, and its tensors: input, weights and so on.

    `device` is TVM's name for where the tensors are: this machine's CPU if nothing else is said.
    """

    module: Any
    tensors: tuple[Any, ...]
    device: Any = None

    def samples(self, count: int, *, repeats: int = 1) -> list[float]:
        """Seconds a call, in `count` samples of `repeats` calls whose threads do not part."""
        import tvm

        device = self.device or tvm.cpu()
        evaluate = self.module.time_evaluator(FORWARD, device, number=1, repeat=count)
        return [float(second) / repeats for second in evaluate(repeats, *self.tensors).results]

    def blocks(self, count: int, seconds: float) -> list[float]:
        """Seconds a call, in `count` samples that take about `seconds` each."""
        estimate = max(min(self.samples(2, repeats=ESTIMATE_REPEATS)), 1e-8)
        return self.samples(count, repeats=max(1, round(seconds / estimate)))


class Loaded(Protocol):
    """What visits do with a program that is loaded, whatever runs it."""

    def samples(self, count: int, *, repeats: int = 1) -> list[float]:
        """Seconds a call, in `count` samples of `repeats` calls."""
        ...

    def blocks(self, count: int, seconds: float) -> list[float]:
        """Seconds a call, in `count` samples that take about `seconds` each."""
        ...


Loader = Callable[[str, Sequence[int]], Loaded]
_loaders: list[Loader] = []


def load_with(loader: Loader) -> None:
    """Let `loader` load this process's programs from now on: onto a board, say."""
    _loaders[:] = [loader]


def load_program(path: str, sizes: Sequence[int]) -> Loaded:
    """The program in a library, on random numbers: as many in each tensor as `sizes` say."""
    if _loaders:
        return _loaders[0](path, sizes)
    import tvm

    return LoadedProgram(tvm.runtime.load_module(path), random_tensors(sizes))


def random_tensors(sizes: Sequence[int]) -> tuple[Any, ...]:
    """Flat float32 tensors of their own memory, filled from the pool."""
    import numpy as np
    import tvm

    pool, start, tensors = number_pool(), 0, []
    for size in sizes:
        if start + size > len(pool):
            start = 0
        values = pool[start : start + size] if size <= len(pool) else np.resize(pool, size)
        tensors.append(tvm.runtime.tensor(values))
        start += size
    return tuple(tensors)


@cache
def number_pool() -> Any:
    """Random numbers, small enough that activations neither overflow nor become denormal."""
    import numpy as np

    rng = np.random.default_rng(0)
    return (rng.random(POOL, dtype=np.float32) - np.float32(0.5)) * np.float32(0.2)
