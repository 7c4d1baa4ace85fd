"""The `ofatvm` command: finds a subcommand, runs it, and turns every failure into one line.

A command is one file, `ofatvm/cli/NAME.py`, with a click command called `command`, and a line in
`LAZY`. Its body gets a `Run` (workspace, listener for events, words) and returns a `Result`:

    @click.command("tune", help="Tune a target's kernels.")
    @click.option("--trials", type=COUNT, default=64)
    @common_options
    def command(run: Run, trials: int) -> Result:
        from ofatvm.tuning.tune import tune          # heavy imports stay in the body

        with Store.open(run.workspace) as store:
            log = tune(..., on_event=run.on_event)
        return Result({"records": log.count}, lambda width: table(log.rows, COLUMNS, width))

`common_options` (the decorator nearest the body) adds --json, --workspace and --quiet, and prints
the result. The body prints nothing and catches nothing: it raises errors of `ofatvm.errors`, and
`main` makes of them, of click's and of the system's the line and exit code that `errors.py` gives.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import click

from ofatvm import __version__
from ofatvm.cli.misuse import usage_error
from ofatvm.cli.options import join_target, move_ir, refuse_empty, refuse_stray
from ofatvm.cli.render import (
    Progressor,
    Result,
    hold_descriptors,
    print_error,
    print_result,
    settle,
    stdout_closed,
    write_stderr,
)
from ofatvm.errors import MissingInputError, OfatvmError, UsageError, shorten
from ofatvm.events import Event
from ofatvm.torchrun import follows

# name: (module:attribute, one-line help). Listing commands imports none of them.
LAZY = {
    "search": ("ofatvm.cli.search:command", "Find, verify and ship the best network for a target."),
    "tune": ("ofatvm.cli.tune:command", "Tune the kernels of a space on a target."),
    "profile": ("ofatvm.cli.profile:command", "Measure compiled architectures."),
    "train": ("ofatvm.cli.train:command", "Train a supernet on your own pictures."),
    "evaluate": ("ofatvm.cli.evaluate:command", "Measure the accuracy of subnets."),
    "describe": ("ofatvm.cli.describe:command", "Describe architectures: MACs, size, latency..."),
    "compile": ("ofatvm.cli.compile:command", "Ship one architecture as a bundle."),
    "verify": ("ofatvm.cli.verify:command", "Check a bundle: digests, outputs, latency."),
    "report": ("ofatvm.cli.report:command", "Write a page of what was found, or say costs."),
    "targets": ("ofatvm.cli.targets:command", "List known targets and this machine's own."),
    "devices": ("ofatvm.cli.devices:command", "List, check or serve boards reached over RPC."),
    "doctor": ("ofatvm.cli.doctor:command", "Check what this machine has and lacks."),
    "status": ("ofatvm.cli.status:command", "Say what a workspace holds and what comes next."),
}
DEFAULT_WORKSPACE = Path(".ofatvm")
INTERRUPTED = 130
FIRST_SPEAKS_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Run:
    """What every command body gets: its workspace, where events go, and the words typed."""

    workspace: Path
    json: bool
    on_event: Callable[[Event], None]
    words: tuple[str, ...]


class Workspace(click.ParamType[Path]):
    """A folder, or the name of one that can still be made."""

    name = "directory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The folder as a path."""
        path = Path(value)
        there = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
        if not os.path.isdir(there):
            raise UsageError(
                f"workspace {path} cannot be used: {there} is not a folder",
                hint="give --workspace a folder",
            )
        return path


class LazyGroup(click.Group):
    """A group whose commands are imported when they run; their one-line help is in `LAZY`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(LAZY)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in LAZY:
            return None
        module, _, attribute = LAZY[cmd_name][0].partition(":")
        found: click.Command = getattr(import_module(module), attribute)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in LAZY.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From a hardware target to a verified, compiled Once-for-All network.",
    epilog="Start with: ofatvm search --target host",
)
@click.version_option(__version__, prog_name="ofatvm")
def group() -> None:
    """The root of all commands."""


def common_options(body: Callable[..., Result]) -> Callable[..., int]:
    """Add the options every command has, run the body, print its result; returns the exit code."""

    @click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print one JSON object; describe and profile: one a line.",
    )
    @click.option(
        "--workspace",
        type=Workspace(),
        default=DEFAULT_WORKSPACE,
        show_default=True,
        help="Folder of the store and caches.",
    )
    @click.option("-q", "--quiet", is_flag=True, help="No progress, only warnings.")
    @functools.wraps(body)
    def wrapped(*, as_json: bool, workspace: Path, quiet: bool, **options: Any) -> int:
        progress = Progressor(quiet=quiet)
        try:
            words: tuple[str, ...] = click.get_current_context().obj
            result = body(Run(workspace, as_json, progress, words), **options)
        finally:
            progress.close()
        print_result(result, as_json=as_json)
        if result.error is None:
            return 0
        if not as_json:
            print_error(result.error, as_json=False)
        return result.error.exit_code

    return wrapped


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; never raises, prints no traceback."""
    words = join_target(move_ir(list(sys.argv[1:] if arguments is None else arguments)))
    as_json = "--json" in words[: words.index("--") if "--" in words else None]
    hold_descriptors()
    try:
        with _terminable():
            return _run(words, as_json=as_json)
    except KeyboardInterrupt:  # a second one, while the first was being reported
        return INTERRUPTED
    finally:
        settle()


def _run(words: list[str], *, as_json: bool) -> int:
    kind = ""
    try:
        refuse_empty(words)
        refuse_stray(words)
        with group.make_context("ofatvm", words or ["--help"], obj=tuple(words)) as context:
            return int(group.invoke(context) or 0)
    except click.exceptions.Exit as caught:
        return caught.exit_code
    except OfatvmError as caught:
        error = caught
    except click.ClickException as caught:
        error, kind = usage_error(caught, words), "UsageError"
    except (KeyboardInterrupt, click.Abort):
        again = "the same command without --fresh" if "--fresh" in words else "the same command"
        error, kind = OfatvmError("interrupted", hint=f"{again} continues"), "Interrupted"
        error.exit_code = INTERRUPTED
    # The one broad net: whatever else goes wrong is our bug, and still gets its one line.
    except Exception as caught:
        if isinstance(caught, BrokenPipeError) and stdout_closed():
            return 1
        error, kind = _system_error(caught)
    if follows():
        if kind == "Interrupted":
            return INTERRUPTED
        # What fails here fails in the first process too, nearly always: then torchrun ends this
        # one, once the first has said why.
        time.sleep(FIRST_SPEAKS_SECONDS)
    print_error(error, as_json=as_json, kind=kind)
    return error.exit_code


def _system_error(caught: Exception) -> tuple[OfatvmError, str]:
    """What the disk, the system or a bug did, as an error of ours and its kind."""
    if "OFATVM_DEBUG" in os.environ:
        write_stderr(traceback.format_exc())
    sqlite = sys.modules.get("sqlite3")
    if sqlite is not None and isinstance(caught, sqlite.DatabaseError):
        from ofatvm.store import explain

        error = explain(Path("the store"), caught)
        return error, type(error).__name__
    if isinstance(caught, MemoryError):
        return OfatvmError("out of memory", hint="close other programs and try again"), "System"
    if isinstance(caught, OSError) and caught.errno == errno.ENOSPC:
        where = f" for {caught.filename}" if caught.filename else ""
        return OfatvmError(f"no space left on the disk{where}", hint="free some"), "System"
    if isinstance(caught, OSError) and caught.filename:
        file = shorten(str(caught.filename), 200)
        hint = "" if file == "stdout" else "give another path, or mend that one"
        if isinstance(caught, FileNotFoundError):
            return MissingInputError(f"there is no {file}", hint=hint), "MissingInputError"
        reason = caught.strerror or type(caught).__name__
        return UsageError(f"cannot use {file}: {reason}", hint=hint), "System"
    if isinstance(caught, FileNotFoundError) and not _current_folder_exists():
        hint = "cd into one that is"
        return UsageError("the current folder is not there any more", hint=hint), "UsageError"
    described = f"{type(caught).__name__}: {caught}" if str(caught) else type(caught).__name__
    hint = "set OFATVM_DEBUG=1 for the traceback"
    return OfatvmError(f"internal error: {described}", hint=hint), "InternalError"


def _current_folder_exists() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does, with everything closed in order."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread, where no handler can be set
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
