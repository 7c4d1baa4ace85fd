"""`ofatvm targets`: targets known by name, one in full, and this machine's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ofatvm.cli.main import Run, common_options
from ofatvm.cli.render import Column, Result, pairs, table
from ofatvm.errors import UsageError
from ofatvm.paths import data_dir
from ofatvm.target import Target, load_target

COLUMNS = (
    Column("name", "target", left=True),
    Column("mcpu", "CPU", lambda text: text or "-", left=True),
    Column("records", "records", lambda held: "yes" if held else "no", left=True),
    Column("notes", "notes", left=True),
)


@click.command(
    "targets",
    help="List known targets, show one as TVM gets it (a name, host, or a quoted target string), "
    "or detect this machine's.",
)
@click.argument("action", type=click.Choice(["list", "show", "detect"]), default="list")
@click.argument("name", required=False)
@common_options
def command(run: Run, action: str, name: str | None) -> Result:
    """List, show or detect."""
    from ofatvm.pipeline.setup import resolve_target

    if action == "show":
        if name is None:
            raise UsageError("targets show needs a name", hint="see `ofatvm targets`")
        return show(resolve_target(name))
    if name is not None:
        raise UsageError(f"targets {action} takes no name, got {name[:60]!r}")
    return show(resolve_target("host")) if action == "detect" else listing()


def listing() -> Result:
    """Every TOML file in targets/, and the host."""
    rows = []
    for path in sorted(data_dir("targets").glob("*.toml")):
        target = load_target(path)
        rows.append(describe(target) | {"records": holds_records(target.name)})
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
        "notes": target.notes or None,
    }
    return Result({"target": data}, lambda width: pairs(facts))


def shown(value: Any) -> str:
    """A target option for people."""
    return " ".join(value) if isinstance(value, list) else str(value)


def describe(target: Target) -> dict[str, Any]:
    """A target as JSON."""
    return {
        "name": target.name,
        "kind": target.kind,
        "mtriple": target.mtriple,
        "mcpu": target.mcpu,
        "mattr": list(target.mattr),
        "num_cores": target.num_cores,
        "threads": target.threads,
        "family": list(target.family),
        "fingerprint": target.fingerprint,
        "notes": target.notes,
    }


def holds_records(name: str) -> bool:
    """Whether tuning records of that name ship with ofatvm."""
    journal: Path = data_dir("tuning_logs") / name / "trials.jsonl"
    return journal.is_file() and journal.stat().st_size > 0
