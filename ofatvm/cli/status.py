"""`ofatvm status`: what a workspace holds, and the command to type next."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ofatvm.cli.main import Run, common_options
from ofatvm.cli.render import Column, Result, pairs, table
from ofatvm.errors import OfatvmError, StoreError

if TYPE_CHECKING:
    from ofatvm.store import Store

SEARCH = "search-"
MEASUREMENTS = (
    Column("space", "space", left=True),
    Column("target_name", "target", left=True),
    Column("kind", "kind", left=True),
    Column("source", "for", left=True),
    Column("threads", "threads"),
    Column("count", "measurements"),
    Column("failed", "failed"),
    Column("newest", "newest", lambda text: text[:16].replace("T", " "), left=True),
)
SEARCHES = (
    Column("search", "search", left=True),
    Column("ir", "ir", left=True),
    Column("target", "target", left=True),
    Column("state", "state", left=True),
)
BUNDLES = (
    Column("path", "bundle", left=True),
    Column("ir", "ir", left=True),
    Column("target", "target", left=True),
)


@click.command("status", help="Say what a workspace holds and what comes next.")
@common_options
def command(run: Run) -> Result:
    """Look into the workspace without making one."""
    data = survey(run.workspace)
    return Result(data, lambda width: describe(data, width))


def survey(workspace: Path) -> dict[str, Any]:
    """Measurements, searches and bundles of a workspace, and the next command."""
    from ofatvm.store import FILE_NAME, Store

    holdings: list[dict[str, Any]] = []
    runs: list[str] = []
    searches: list[dict[str, Any]] = []
    if (workspace / FILE_NAME).exists():
        with Store.read(workspace) as store:
            holdings = [asdict(holding) for holding in store.holdings()]
            runs = store.runs()
            searches = [_search(store, run) for run in runs if run.startswith(SEARCH)]
    shipped = [Path(row["bundle"]) for row in searches if row["bundle"]]
    names = {row["fingerprint"]: row["target"] for row in searches}
    for holding in holdings:
        holding["target_name"] = names.get(holding["target"]) or holding["target"][:12]
    bundles = _bundles([*_folders(workspace), *shipped])
    return {
        "workspace": str(workspace),
        "exists": workspace.is_dir(),
        "measurements": holdings,
        "runs": runs,
        "searches": searches,
        "bundles": bundles,
        "next": _next(workspace, searches, bundles),
    }


def _next(
    workspace: Path, searches: Sequence[dict[str, Any]], bundles: Sequence[dict[str, Any]]
) -> str:
    """The command that goes on with what was done last: a search without an answer, or a bundle."""
    from ofatvm.bundle.manifest import FILE_NAME

    begun = [row for row in searches if row["command"] is not None]
    last = max(begun, key=lambda row: str(row["started"]), default=None)
    if bundles:
        newest = Path(bundles[-1]["path"])
        shipped = datetime.fromtimestamp((newest / FILE_NAME).stat().st_mtime, UTC)
        if last is None or str(last["started"]) < shipped.isoformat():
            return f"ofatvm verify {shlex.quote(str(newest))}"
    if last is not None:
        return str(last["command"])
    where = "" if workspace == Path(".ofatvm") else f" --workspace {shlex.quote(str(workspace))}"
    return f"ofatvm search --target host{where}"


def _search(store: Store, run: str) -> dict[str, Any]:
    """A search as far as it got; what is kept of one may be unreadable here."""
    from ofatvm.report.outcome import kept_outcome
    from ofatvm.report.started import kept_start

    row: dict[str, Any] = dict.fromkeys(
        ("ir", "target", "fingerprint", "bundle", "started", "command")
    )
    row["search"] = run
    start = kept_start(store, run)
    if start is not None:
        row |= {name: getattr(start, name) for name in ("ir", "target", "fingerprint")}
        return row | {"started": start.when, "command": start.command(), "state": "unfinished"}
    try:
        outcome = kept_outcome(store, run)
    except StoreError:
        return row | {"state": "unreadable"}
    if outcome is None:
        return row | {"state": "unfinished"}
    found = {name: getattr(outcome, name) for name in ("ir", "target", "fingerprint", "bundle")}
    return row | found | {"state": "finished"}


def _folders(workspace: Path) -> list[Path]:
    """Folders with a manifest; what a killed command left half-moved has a hidden name.

    Other folders may come and go meanwhile: a command that works in the workspace makes some.
    """
    from ofatvm.bundle.manifest import FILE_NAME

    found = []
    for place, folders, files in os.walk(workspace):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if FILE_NAME in files:
            found.append(Path(place))
    return found


def _bundles(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """The folders whose manifest can be read, each once, the newest last."""
    from ofatvm.bundle.manifest import FILE_NAME
    from ofatvm.bundle.snapshot import read_manifest

    found: dict[str, tuple[int, dict[str, Any]]] = {}
    for folder in folders:
        try:
            manifest = read_manifest(folder)
            age = (folder / FILE_NAME).stat().st_mtime_ns
        except (OfatvmError, OSError, ValueError):
            continue
        row = {"path": str(folder), "ir": manifest.ir, "target": manifest.target.name}
        found.setdefault(os.path.realpath(folder), (age, row))
    return [row for _, row in sorted(found.values(), key=lambda pair: (pair[0], pair[1]["path"]))]


def describe(data: dict[str, Any], width: int | None) -> str:
    """The survey for people."""
    if not data["exists"]:
        return f"{data['workspace']} does not exist yet\nnext: {data['next']}"
    total = sum(holding["count"] for holding in data["measurements"])
    parts = [
        pairs(
            {
                "workspace": data["workspace"],
                "measurements": total,
                "searches": len(data["searches"]) or "none",
                "bundles": len(data["bundles"]) or "none",
            },
            width,
        )
    ]
    for name, columns in (
        ("measurements", MEASUREMENTS),
        ("searches", SEARCHES),
        ("bundles", BUNDLES),
    ):
        if data[name]:
            parts.append(table(data[name], columns, width))
    return "\n\n".join([*parts, f"next: {data['next']}"])
