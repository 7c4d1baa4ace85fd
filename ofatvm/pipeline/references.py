"""Reference times of a device, kept in the store, and which measurements still hold by them."""

from __future__ import annotations

from collections.abc import Sequence

from ofatvm.device.reference import Reference
from ofatvm.store import Store

KERNEL_TIMES = "kernel-times"
HOLDS_AFTER = "holds-after"


def hold(store: Store, run: str, key: str, reference: Reference, forgotten: str) -> None:
    """Give a reference the time that the store holds for it, or keep the one that it takes now.

    When it is lowered, what was found by the longer one is `forgotten` first: KERNEL_TIMES, or by
    HOLDS_AFTER the measurements so far.
    """

    def lower(seconds: float) -> None:
        forget(store, run, forgotten)
        store.put_state(run, key, seconds)

    reference.on_lower = lower
    reference.seconds = store.get_state(run, key)
    if reference.seconds is None:
        store.put_state(run, key, reference.get())


def begin_anew(store: Store, run: str, keys: Sequence[str] = ()) -> None:
    """Forget what the store holds of a device, so that all of it is measured anew."""
    forget(store, run, HOLDS_AFTER)
    forget(store, run, KERNEL_TIMES)
    for key in keys:
        store.put_state(run, key, None)


def forget(store: Store, run: str, what: str) -> None:
    """Forget KERNEL_TIMES, or by HOLDS_AFTER the measurements so far."""
    store.put_state(run, what, store.newest() if what == HOLDS_AFTER else {})


def holds_after(store: Store, run: str) -> int:
    """The last measurement that does not hold for the device any more, 0 for none."""
    return int(store.get_state(run, HOLDS_AFTER, 0))
