"""Options that say what is compiled for and what runs it, as one value: `Wanted`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ofatvm.cli.main import Run
from ofatvm.cli.options import THREADS
from ofatvm.road import IRS, Ir

if TYPE_CHECKING:
    from ofatvm.pipeline.setup import Setup

Body = Callable[..., Any]

TARGET_OPTIONS = (
    click.option(
        "--target",
        "target_text",
        default="host",
        show_default=True,
        help="host, a name from `ofatvm targets`, a TVM string or JSON, a file.",
    ),
    click.option("--threads", type=THREADS, help="Threads to run with. [default: all cores]"),
    click.option(
        "--tuning-logs",
        type=click.Path(path_type=Path),
        default=Path("tuning_logs"),
        show_default=True,
        help="Folder of tuning records, by target.",
    ),
)
DEVICE_OPTIONS = (
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="local, simulated, or rpc://HOST:PORT/KEY; auto is this machine where it runs the "
        "target's code, else simulated.",
    ),
    click.option(
        "--allow-network", is_flag=True, help="Let --device name boards of other machines."
    ),
    click.option(
        "--ir",
        type=click.Choice(IRS),
        default="relax",
        show_default=True,
        help="Through Relax, or Relay of TVM 0.19 in an environment that `make relay` makes.",
    ),
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user wants compiled for, and run on."""

    target_text: str
    threads: int | None
    tuning_logs: Path
    device: str = "auto"
    allow_network: bool = False
    ir: Ir = "relax"

    def prepare(
        self, run: Run, space_name: str, resolution: int | None
    ) -> AbstractContextManager[Setup]:
        """The Setup of a space at a resolution, by default its largest."""
        from ofatvm.pipeline.setup import prepare

        return prepare(
            self.target_text,
            space_name=space_name,
            resolution=resolution,
            workspace=run.workspace,
            threads=self.threads,
            tuning_logs=self.tuning_logs,
            device=self.device,
            allow_network=self.allow_network,
            ir=self.ir,
            on_event=run.on_event,
        )


def setup_options() -> Callable[[Body], Body]:
    """Add the options to a command, whose body gets them as `wanted`."""

    def decorate(body: Body) -> Body:
        @functools.wraps(body)
        def gathered(**options: Any) -> Any:
            given = {f.name: options.pop(f.name) for f in fields(Wanted) if f.name in options}
            return body(wanted=Wanted(**given), **options)

        decorated: Body = gathered
        for option in reversed((*TARGET_OPTIONS, *DEVICE_OPTIONS)):
            decorated = option(decorated)
        return decorated

    return decorate
