"""`ofatvm search`: from a target to a front, a pick and its bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ofatvm.cli.main import Run, common_options
from ofatvm.cli.options import ACCURACY, LATENCY_MS, MACS, SEED, SIZE_MB
from ofatvm.cli.render import Column, Result, pairs, table
from ofatvm.cli.setup_options import Wanted, setup_options
from ofatvm.cli.shipped import accuracy_text, agreement_text, next_steps
from ofatvm.cli.space_options import find_source, space_options
from ofatvm.text import counted

MARK = Column("mark", "", left=True)
SPREAD = (
    Column("interval", "95 % interval"),
    Column("p90", "p90", lambda value: f"{value:.4g}"),
)
COLUMNS = (
    Column("macs", "M MACs", lambda value: f"{value / 1e6:.3g}"),
    Column("size", "MB", lambda value: f"{value / 1e6:.1f}"),
    Column("coverage", "coverage", lambda value: f"{value:.0%}"),
    Column("arch", "architecture", left=True),
)


@click.command("search", help="Find, verify and ship the best network for a target.")
@space_options
@setup_options()
@click.option("--latency-ms", type=LATENCY_MS, help="Latency at most, measured or simulated.")
@click.option("--macs", type=MACS, help="Multiply-accumulates at most, as 300M.")
@click.option("--size-mb", type=SIZE_MB, help="Weights at most, in 10^6 bytes.")
@click.option("--peak-memory-mb", type=SIZE_MB, help="Peak activation memory at most.")
@click.option(
    "--min-accuracy",
    type=ACCURACY,
    help="Top-1 at least, in percent; alone, the pick is the fastest that reaches it.",
)
@click.option("--weights", type=click.Path(path_type=Path), help="Supernet weights file.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Bundle folder.  [default: in the workspace]"
)
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("--fresh", is_flag=True, help="Measure anew instead of continuing.")
@common_options
def command(
    run: Run,
    supernet_name: str | None,
    space_name: str | None,
    resolution: int | None,
    wanted: Wanted,
    latency_ms: float | None,
    macs: float | None,
    size_mb: float | None,
    peak_memory_mb: float | None,
    min_accuracy: float | None,
    weights: Path | None,
    out: Path | None,
    seed: int,
    fresh: bool,
) -> Result:
    """Search, then ship the pick."""
    from ofatvm.bundle.write import check_destination
    from ofatvm.pipeline.describe import accuracy_model
    from ofatvm.pipeline.devices import open_device
    from ofatvm.pipeline.outcome import outcome_of
    from ofatvm.pipeline.search import search, search_key
    from ofatvm.pipeline.search_state import SearchConfig
    from ofatvm.pipeline.ship import bundle_name, check_before, ship, shipped_facts
    from ofatvm.report.outcome import keep_outcome
    from ofatvm.report.started import unfinished
    from ofatvm.search.budget import Budget
    from ofatvm.store import Store

    budget = Budget(latency_ms, macs, size_mb, peak_memory_mb, min_accuracy)
    config = SearchConfig(seed=seed)
    source = find_source(supernet_name, space_name, weights)
    check_before(out, source.weights, source.space, source.supernet)
    with (
        wanted.prepare(run, source.space.name, resolution) as setup,
        Store.open(run.workspace) as store,
    ):
        accuracy = accuracy_model(setup.space, source.supernet)
        key = search_key(setup, budget, config, source.supernet)
        name = bundle_name(key, source.weights)
        place = out or run.workspace / "bundles" / name
        check_destination(place, replace=True)
        with unfinished(store, name, target=setup.target, ir=setup.ir, words=run.words):
            with open_device(setup, store, fresh=fresh, on_event=run.on_event) as opened:
                found = search(
                    setup,
                    store,
                    opened,
                    accuracy,
                    budget,
                    config,
                    supernet=source.supernet,
                    fresh=fresh,
                    on_event=run.on_event,
                )
            bundle = ship(
                setup,
                found.pick.arch,
                place,
                weights=source.weights,
                seed=seed,
                supernet=source.supernet,
                measurement=found.pick.measurement,
                accuracy_percent=found.pick.accuracy_percent,
                on_event=run.on_event,
            )
            facts = shipped_facts(bundle)
            outcome = outcome_of(setup, budget, accuracy, found, bundle, facts, seed=seed)
            keep_outcome(store, name, outcome)
    data = outcome.summary()
    return Result(data, lambda width: _text(data, width))


def _text(data: dict[str, Any], width: int | None) -> str:
    rows = [
        {
            "mark": ">" if point["arch"] == data["pick"]["arch"] else "",
            "accuracy": point["accuracy_percent"],
            "latency": point["latency_ms"],
            "interval": f"{point['ci_low_ms']:.4g}-{point['ci_high_ms']:.4g}"
            + (" unstable" if point["unstable"] else ""),
            "p90": point["p90_ms"],
            "macs": point["macs"],
            "size": point["size_bytes"],
            "coverage": point["coverage"],
            "arch": point["arch"],
        }
        for point in data["front"]
    ]
    pick = data["pick"]
    accuracy = Column("accuracy", f"top-1 % {pick['accuracy_kind']}", "{:.2f}".format, keep=True)
    # What is simulated has no spread.
    spread = SPREAD if pick["latency_kind"] == "measured" else ()
    latency = Column("latency", f"ms {pick['latency_kind']}", "{:.4g}".format, keep=True)
    count = pick["accuracy_images"]
    images = "" if count is None else f" on {counted(count, 'held-out image')}"
    facts = {
        "pick": pick["arch"],
        "accuracy": f"{pick['accuracy_percent']:.2f} % top-1, {pick['accuracy_kind']}{images}",
        "latency": f"{pick['latency_ms']:.4g} ms, {pick['latency_kind']}, "
        + counted(data["threads"], "thread"),
        "latency model": _model_text(data),
        "weights": data["weights"],
        "shipped code": accuracy_text(data["bundle_accuracy"]) if count else None,
        "agreement": agreement_text(data["agreement"]),
        "bundle": data["bundle"],
        **next_steps(data["bundle"], data["ir"]),
    }
    known = {name: value for name, value in facts.items() if value is not None}
    front = table(rows, (MARK, accuracy, latency, *spread, *COLUMNS), width)
    return f"{front}\n\n{pairs(known, width)}"


def _model_text(data: dict[str, Any]) -> str:
    """How far the latency model was off, and simpler ones beside it."""
    parts = [f"{data['latency_model']['mape_percent']:.1f} % off out of fold"]
    parts += [f"{name} {r['mape_percent']:.1f} %" for name, r in data["latency_baselines"].items()]
    text = ", ".join(parts)
    forecast = data["forecast"]
    if forecast is None:
        return text
    return f"{text}; {forecast['mape_percent']:.1f} % in {counted(forecast['n'], 'forecast')}"
