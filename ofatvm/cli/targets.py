"""`ofatvm targets`: targets known by name, one in full, this machine's, and whether they work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ofatvm.cli.main import Run, common_options
from ofatvm.cli.render import Column, Result, pairs, table
from ofatvm.errors import OfatvmError, TargetError, UsageError
from ofatvm.paths import data_dir
from ofatvm.target import Target, load_target, shipped

COLUMNS = (
    Column("name", "target", left=True),
    Column("processor", "processor", lambda text: text or "-", left=True),
    Column("num_cores", "cores"),
    Column("records", "records", lambda held: "yes" if held else "no", left=True),
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
        held = any(holds_records(name) for name in target.record_names)
        what = target.notes.partition(". ")[0].rstrip(".")
        rows.append(describe(target) | {"records": held, "what": what})
    data = {"targets": rows, "host": "ofatvm targets detect"}
    hint = "host is this machine's own CPU: ofatvm targets detect"
    return Result(data, lambda width: f"{table(rows, COLUMNS, width)}\n\n{hint}")


def show(target: Target) -> Result:
    """One target in full."""
    data = describe(target) | {"tvm": target.to_dict()}
    data["records"] = [name for name in target.record_names if holds_records(name)]
    facts = {
        "target": target.name,
        **{f"tvm {key}": shown(value) for key, value in target.to_dict().items()},
        "threads": target.threads,
        "fingerprint": target.fingerprint,
        "records of": ", ".join(data["records"]) or None,
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


def shown(value: Any) -> str:
    """A target option for people."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {shown(entry)}" for key, entry in value.items())
    return " ".join(value) if isinstance(value, list) else str(value)


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


def holds_records(name: str) -> bool:
    """Whether tuning records of that name ship with ofatvm."""
    from ofatvm.tuning.journal import JOURNAL_FILE

    folder: Path = data_dir("tuning_logs") / name
    journals = [folder / JOURNAL_FILE, *folder.glob("traces-*.jsonl")]
    return any(file.is_file() and file.stat().st_size > 0 for file in journals)
