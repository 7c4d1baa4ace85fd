"""What a command wants compiled for and run on arrives as one value."""

from __future__ import annotations

from pathlib import Path

import click
from click.testing import CliRunner

from ofatvm.cli.setup_options import Wanted, setup_options


def given(words: list[str]) -> tuple[int, list[Wanted]]:
    """The exit code of a command with these words, and what its body got."""
    found: list[Wanted] = []

    @click.command()
    @click.option("--other", default="x")
    @setup_options()
    def command(*, wanted: Wanted, other: str) -> None:
        found.append(wanted)
        assert other == "x"

    return CliRunner().invoke(command, words).exit_code, found


def test_without_options_it_is_this_machine_through_relax() -> None:
    assert given([]) == (0, [Wanted("host", None, Path("tuning_logs"), "auto", False, "relax")])


def test_every_option_reaches_its_place() -> None:
    words = ["--target", "x86-64-v3", "--threads", "2", "--tuning-logs", "logs"]
    words += ["--device", "rpc://10.0.0.1:9190/pi", "--allow-network", "--ir", "relay"]
    wanted = Wanted("x86-64-v3", 2, Path("logs"), "rpc://10.0.0.1:9190/pi", True, "relay")
    assert given(words) == (0, [wanted])
