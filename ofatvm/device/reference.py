"""The undisturbed time of what runs beside everything measured, and how it is put right."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ofatvm.device.timing import MAX_DRIFT


class Reference:
    """Seconds that a yardstick takes on an undisturbed machine, taken when first needed.

    A machine may be busy at that moment. What is seen of the yardstick later can prove the time too
    long; then it is lowered, and `on_lower` is told the new one, before anything is divided by it.
    """

    def __init__(self, seconds: float | None, take: Callable[[], float]) -> None:
        """`seconds`: the time, if it is known; `take` finds it out."""
        self.seconds = seconds
        self.on_lower: Callable[[float], None] = lambda seconds: None
        self._take = take

    def get(self) -> float:
        """Seconds; DeviceError if the yardstick does not run."""
        if self.seconds is None:
            self.seconds = float(self._take())
        return self.seconds

    def prove(self, seen_s: Sequence[float]) -> float:
        """Seconds, lowered if nearly the least of `seen_s` is more than 10 % below them."""
        if seen_s and undisturbed(seen_s) * MAX_DRIFT < self.get():
            self.seconds = undisturbed(seen_s)
            self.on_lower(self.seconds)
        return self.get()


def undisturbed(seen_s: Sequence[float]) -> float:
    """Nearly the least of many times: the tenth part of them is faster."""
    return sorted(seen_s)[len(seen_s) // 10]
