"""A command of the tests' own below `ofatvm`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import click
import pytest

from ofatvm.cli import main as main_module
from ofatvm.cli import options
from ofatvm.cli.main import common_options
from ofatvm.cli.render import Result


@pytest.fixture
def body(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[..., Result]], None]]:
    """Give the root a command `try` with this body."""

    def install(function: Callable[..., Result]) -> None:
        command = click.command("try")(
            click.option("--latency-ms", type=options.LATENCY_MS)(
                click.option("--target")(common_options(function))
            )
        )
        module = type(sys)("ofatvm_try")
        module.command = command  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "ofatvm_try", module)
        monkeypatch.setitem(main_module.LAZY, "try", ("ofatvm_try:command", "Try."))

    return install
