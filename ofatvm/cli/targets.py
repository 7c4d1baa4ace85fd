"""`ofatvm targets`: targets known by name, one in full, this machine's, and whether they work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ofatvm.cli.main import Run, common_options
from ofatvm.cli.render import Column, Result, pairs, table
from ofatvm.errors import OfatvmError, TargetError, UsageError
from ofatvm.paths import data_dir
from ofatvm.road import IRS, Ir
from ofatvm.target import Target, load_target, option_text, shipped

if TYPE_CHECKING:
    from ofatvm.compiler.space import VectorUnit

COLUMNS = (
    Column("name", "target", left=True),
    Column("processor", "processor", lambda text: text or "-", left=True),
    Column("num_cores", "cores"),
    Column("records", "records", lambda held: ", ".join(held) or "-", left=True),
    Column("what", "what", left=True),
)
CHECK_COLUMNS = (
    Column("name", "target", left=True),
    Column("processor", "processor", left=True),
    Column("vectors", "vectors", left=True),
    Column("fingerprint", "fingerprint", left=True),
    Column("result", "result", left=True),
)
PROBLEM_COLUMNS = (*CHECK_COLUMNS, Column("hint", "hint", left=True))


@click.command(
    "targets",
    help="List known targets, show one as TVM gets it, detect this machine's, or check that code "
    "can be generated for some (without names: for all known ones). A target is a name, a file, "
    "host, a TVM tag, JSON, or a string such as llvm -mcpu=cortex-a72, quoted or not.",
)
@click.argument("action", type=click.Choice(["list", "show", "detect", "check"]), default="list")
@click.argument("names", nargs=-1)
@common_options
def command(run: Run, action: str, names: tuple[str, ...]) -> Result:
    """List, show, detect or check."""
    from ofatvm.pipeline.setup import resolve_target

    if action == "check":
        return check(names)
    if action == "show":
        if not names:
            raise UsageError("targets show needs a name", hint="see `ofatvm targets`")
        if len(names) > 1:
            raise UsageError(
                f"targets show takes one target, got {names[1][:60]!r} as well",
                hint="quote a target string, or write it as --target takes it",
            )
        return show(resolve_target(names[0]))
    if names:
        raise UsageError(f"targets {action} takes no name, got {names[0][:60]!r}")
    return show(resolve_target("host")) if action == "detect" else listing()


def listing() -> Result:
    """Every TOML file in targets/, and the host."""
    rows = []
    for path in shipped().values():
        target = load_target(path)
        what = target.notes.partition(". ")[0].rstrip(".")
        rows.append(describe(target) | {"records": records_of(target), "what": what})
    data = {"targets": rows, "host": "ofatvm targets detect"}
    notes = {
        "records": "the roads (--ir) that a target, or its family, is tuned on",
        "host": "this machine's own CPU: ofatvm targets detect",
    }
    return Result(data, lambda width: f"{table(rows, COLUMNS, width)}\n\n{pairs(notes, width)}")


def show(target: Target) -> Result:
    """One target in full."""
    from ofatvm.compiler.isa import vector_unit

    data = describe(target) | {"tvm": target.to_dict()}
    data["records"] = records_of(target, None if target.kind == "cuda" else vector_unit(target))
    facts = {
        "target": target.name,
        **{f"tvm {key}": option_text(value) for key, value in target.to_dict().items()},
        "threads": target.threads,
        "fingerprint": target.fingerprint,
        "records": "; ".join(
            f"{road}: {', '.join(names)}" for road, names in data["records"].items()
        )
        or None,
        "simulated as": _machine_text(target),
        **{f"filled in {number}": text for number, text in enumerate(target.filled, 1)},
        "notes": target.notes or None,
    }
    return Result({"target": data}, lambda width: pairs(facts, width))


def check(names: Sequence[str]) -> Result:
    """Build and compile for each target; the error names those for which that fails."""
    rows = [check_one(name) for name in names or shipped()]
    wrong = [row["given"] for row in rows if row["result"] != "ok"]
    error = None
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        error = TargetError(
            f"{len(wrong)} of {len(rows)} targets cannot be used: {wrong[0][:60]!r}{more}",
            hint=next((row["hint"] for row in rows if row["hint"]), ""),
        )
    columns = PROBLEM_COLUMNS if wrong else CHECK_COLUMNS
    return Result({"targets": rows}, lambda width: table(rows, columns, width), error=error)


def check_one(text: str) -> dict[str, Any]:
    """What came of resolving a target and compiling a tiny function for it."""
    from ofatvm.compiler.probe import probe
    from ofatvm.pipeline.setup import resolve_target

    row: dict[str, Any] = {"given": text, "name": text[:40], "hint": None}
    try:
        target = resolve_target(text)
        row |= describe(target)
        found = probe(target)
    except OfatvmError as error:
        return row | {"result": error.message, "hint": error.hint or None}
    unit = found.unit
    if unit is not None:
        row["vectors"] = f"{unit.registers} x {unit.lanes} floats"
        row["vector_unit"] = {"lanes": unit.lanes, "registers": unit.registers}
    return row | {"object_bytes": found.object_bytes, "result": "ok"}


def _machine_text(target: Target) -> str | None:
    machine = target.machine
    if machine is None:
        return None
    caches = ", ".join(
        f"{cache.size_kib} KiB{' shared' if cache.shared else ''}" for cache in machine.caches
    )
    return (
        f"{machine.model} at {machine.clock_ghz:g} GHz, caches of {caches}; memory "
        f"{machine.memory_ns:g} ns, {machine.memory_gb_per_s:g} GB/s"
    )


def describe(target: Target) -> dict[str, Any]:
    """A target as JSON."""
    return {
        "name": target.name,
        "kind": target.kind,
        "processor": target.arch or target.mcpu,
        "mtriple": target.mtriple,
        "mcpu": target.mcpu,
        "mattr": list(target.mattr),
        "num_cores": target.num_cores,
        "threads": target.threads,
        "family": list(target.family),
        "fingerprint": target.fingerprint,
        "machine": target.machine and target.machine.model,
        "filled": list(target.filled),
        "notes": target.notes,
    }


def records_of(target: Target, unit: VectorUnit | None = None) -> dict[Ir, list[str]]:
    """Each road that tuning records serve the target on, with whose they are, nearest first.

    They are those that ship with ofatvm, and those in the folder that commands tune into. With a
    `unit`, a family's that were made for other vectors are left out, as no command uses them.
    """
    from ofatvm.pipeline.setup import TUNING_LOGS

    folders = (TUNING_LOGS, data_dir("tuning_logs"))
    own = (target.record_names[0], target.name)
    found: dict[Ir, list[str]] = {}
    for road in IRS:
        names = [
            name
            for name in target.record_names
            if any(_holds(folder / name, road, None if name in own else unit) for folder in folders)
        ]
        if names:
            found[road] = names
    return found


def _holds(folder: Path, road: Ir, unit: VectorUnit | None) -> bool:
    """Whether a folder of `tuning_logs` has trials of a road, and for such vectors."""
    from ofatvm.tuning.journal import JOURNAL_FILE
    from ofatvm.tuning.records import made_for
    from ofatvm.tuning.relay_records import FOLDER, LOG

    if road == "relay":
        folder = folder / FOLDER
        files = [folder / LOG]
    else:
        files = [folder / JOURNAL_FILE, *folder.glob("traces-*.jsonl")]
    held = any(file.is_file() and file.stat().st_size > 0 for file in files)
    return held and (unit is None or made_for(folder, unit))
