"""`Started`: the command of a search without an answer yet, kept so that it can be typed again."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ofatvm.bundle.typed_json import decoded, encoded
from ofatvm.errors import BundleError, InfeasibleBudgetError
from ofatvm.measurement import now
from ofatvm.road import Ir
from ofatvm.store import Store
from ofatvm.target import Target

KEY = "started"
BEGINS_ANEW = "--fresh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A search that began: its words behind `ofatvm`, and the folder that they were typed in."""

    when: str
    target: str
    fingerprint: str
    ir: Ir
    words: tuple[str, ...]
    folder: str

    def command(self) -> str:
        """What continues the search when it is typed here."""
        typed = shlex.join(["ofatvm", *self.words])
        here = os.path.realpath(self.folder) == os.path.realpath(Path.cwd())
        return typed if here else f"cd {shlex.quote(self.folder)} && {typed}"


@contextmanager
def unfinished(
    store: Store, run: str, *, target: Target, ir: Ir, words: Sequence[str]
) -> Iterator[None]:
    """Keep the words of a search for as long as it has no answer, also after it was killed.

    That no architecture meets the budget is an answer, too.
    """
    kept = tuple(word for word in words if word != BEGINS_ANEW)
    started = Started(
        when=now(),
        target=target.name,
        fingerprint=target.fingerprint,
        ir=ir,
        words=kept,
        folder=str(Path.cwd()),
    )
    store.put_state(run, KEY, encoded(started))
    try:
        yield
    except InfeasibleBudgetError:
        store.put_state(run, KEY, None)
        raise
    store.put_state(run, KEY, None)


def kept_start(store: Store, run: str) -> Started | None:
    """How a search began that has no answer; None if it has one, or another ofatvm kept it."""
    value = store.get_state(run, KEY)
    if value is None:
        return None
    try:
        found: Started = decoded(Started, value, KEY)
    except BundleError:
        return None
    return found
