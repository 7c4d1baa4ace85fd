"""Every error ofatvm raises on purpose, with the exit code the command line gives it.

    OfatvmError                     1  something failed; the message says what
    |-- UsageError                  2  a value the user gave is wrong
    |   |-- ArchError                  architecture strings and search spaces
    |   |-- TargetError                target strings, tags, TOML files
    |   |-- BudgetError                budgets and other numbers out of range
    |   |-- CheckpointError            weight files
    |   |-- RecordError                tuning record files
    |   |-- BundleError                bundles
    |   |-- DatasetError               images and labels
    |   `-- StoreError                 the workspace's SQLite file
    |-- InfeasibleBudgetError       3  no architecture meets the budget; the best one is named
    |-- DeviceError                 4  the device does not answer
    |-- MissingInputError           5  a file, tool or environment is missing or stale
    |-- CompileError                1  TVM could not compile a kernel or a program
    |-- MeasurementError            1  a candidate crashed, hung or gave wrong numbers
    |-- TrainingError               1  a training run went astray
    `-- BusyError                   1  another process holds a lock

A message is one sentence with the value in it; the hint is the way out.
"""

from __future__ import annotations


class OfatvmError(Exception):
    """Base of all errors raised on purpose. `hint` says what to do about it."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        """Keep the sentence and the way out apart, so that JSON output can name both."""
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(OfatvmError):
    """A value the user gave is wrong."""

    exit_code = 2


class ArchError(UsageError):
    """An architecture or a search space is malformed."""


class TargetError(UsageError):
    """A target cannot be understood."""


class BudgetError(UsageError):
    """A budget or another number is out of range."""


class CheckpointError(UsageError):
    """A weight file is damaged, unsafe or does not fit the supernet."""


class RecordError(UsageError):
    """A tuning record file cannot be used."""


class BundleError(UsageError):
    """A bundle is damaged, incomplete or was tampered with."""


class DatasetError(UsageError):
    """Images or labels cannot be used."""


class StoreError(UsageError):
    """The workspace's store is damaged or of another version."""


class InfeasibleBudgetError(OfatvmError):
    """No architecture meets the budget; `best` describes the nearest achievable."""

    exit_code = 3

    def __init__(
        self, message: str, *, hint: str = "", best: dict[str, object] | None = None
    ) -> None:
        """`best` goes into the JSON output as it is."""
        super().__init__(message, hint=hint)
        self.best = best or {}


class DeviceError(OfatvmError):
    """A device does not answer."""

    exit_code = 4


class MissingInputError(OfatvmError):
    """A file, tool or environment that the command needs is missing or stale."""

    exit_code = 5


class CompileError(OfatvmError):
    """TVM could not compile a kernel or a program."""


class MeasurementError(OfatvmError):
    """A candidate crashed, hung or gave wrong numbers."""


class TrainingError(OfatvmError):
    """A training run went astray: its loss is no longer a number."""


class BusyError(OfatvmError):
    """Another process holds the lock."""


def shorten(value: object, limit: int = 60) -> str:
    """At most `limit` characters of what a user gave, for a message."""
    text = str(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
