"""Reference times: taken once, and lowered by what proves them too long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import SimpleNamespace

import pytest

from ofatvm.device.reference import Reference
from ofatvm.device.rounds import Visited, least_ms, measure_in_rounds
from ofatvm.device.timing import Latency, Protocol

THREE = Protocol(processes=1, rounds=3, block_ms=1.0, warmup_ms=1.0)


def test_a_reference_is_taken_when_it_is_needed_and_kept() -> None:
    taken = iter([2.0, 3.0])
    reference = Reference(None, lambda: next(taken))
    assert reference.seconds is None
    assert reference.get() == reference.get() == 2.0
    assert Reference(5.0, lambda: next(taken)).get() == 5.0


@pytest.mark.parametrize(
    ("seen", "lowered"),
    [
        ([2.0, 2.1], 1.0),
        ([0.95, 0.95], 1.0),  # what a quiet minute gains
        ([0.5, 0.6, 3.0], 0.5),
        ([0.1] + [0.5] * 10 + [3.0] * 9, 0.5),  # one moment proves nothing
        ([], 1.0),
    ],
)
def test_only_what_is_clearly_faster_proves_it_too_long(seen: list[float], lowered: float) -> None:
    told: list[float] = []
    reference = Reference(1.0, lambda: 1.0)
    reference.on_lower = told.append
    assert reference.prove(seen) == reference.get() == lowered
    assert told == ([] if lowered == 1.0 else [lowered])


def test_latencies_do_not_depend_on_how_busy_the_machine_was_when_the_reference_was_taken() -> None:
    def visit(order: Sequence[int]) -> Iterable[tuple[int, Visited]]:
        return [(i, ([1e-3 * (i + 1)] * 5, (1e-3, 1e-3))) for i in order]

    def measured(reference: Reference) -> list[float]:
        found = measure_in_rounds(
            2,
            THREE,
            seed=0,
            reference=reference,
            visit=visit,
            fresh=lambda: None,
            on_visit=lambda done, total: None,
        )
        assert all(isinstance(latency, Latency) for latency in found)
        return [latency.latency_ms for latency in found if isinstance(latency, Latency)]

    quiet, busy = Reference(1e-3, lambda: 1e-3), Reference(20e-3, lambda: 20e-3)
    assert measured(quiet) == measured(busy) == pytest.approx([1.0, 2.0])


def test_kernel_times_are_divided_by_the_reference_that_they_prove() -> None:
    first, second = SimpleNamespace(digest="a"), SimpleNamespace(digest="b")

    def jobs() -> Iterator[tuple[list[object], tuple[list[float], float]]]:
        yield [first], ([4e-3], 2e-3)
        yield [second], ([1e-3], 1e-3)

    expected = pytest.approx({first.digest: 2.0, second.digest: 1.0})
    assert least_ms(jobs(), Reference(1e-3, lambda: 1e-3)) == expected  # type: ignore[arg-type]
    assert least_ms(jobs(), Reference(9e-3, lambda: 9e-3)) == expected  # type: ignore[arg-type]
