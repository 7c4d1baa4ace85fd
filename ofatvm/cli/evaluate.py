"""`ofatvm evaluate`: measured accuracy of subnets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ofatvm.cli.main import Run, common_options
from ofatvm.cli.options import RESOLUTION, SEED, SUBNETS
from ofatvm.cli.render import Column, Result, table
from ofatvm.errors import UsageError
from ofatvm.text import one_line

COLUMNS = (
    Column("top1_percent", "top-1 % measured", lambda value: f"{value:.2f}"),
    Column("standard_error", "std. error", lambda value: f"{value:.2f}"),
    Column("predicted_percent", "predicted", lambda value: "" if value is None else f"{value:.2f}"),
    Column("macs", "M MACs", lambda value: f"{value / 1e6:.2f}"),
    Column("arch", "architecture", left=True),
)


@click.command("evaluate", help="Measure the accuracy of subnets, each recalibrated.")
@click.option("--supernet", "name", help="A trained supernet: its folder or name.  [default: ours]")
@click.option("--arch", "words", multiple=True, help="Our string or OFA's JSON; several times.")
@click.option("--file", type=click.Path(path_type=Path), help="Architectures, one a line.")
@click.option("--count", type=SUBNETS, help="So many drawn at random instead.")
@click.option("--resolution", type=RESOLUTION, help="Instead of the architectures' own.")
@click.option("--data", help="Evaluate on these pictures.  [default: those in the folder]")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of --count.")
@common_options
def command(
    run: Run,
    name: str | None,
    words: tuple[str, ...],
    file: Path | None,
    count: int | None,
    resolution: int | None,
    data: str | None,
    seed: int,
) -> Result:
    """Recalibrate each subnet on the folder's calibration images, and count right answers."""
    import numpy as np

    from ofatvm.cli.space_options import read_archs
    from ofatvm.data import Images, load_images
    from ofatvm.graph import operator_graph, totals
    from ofatvm.pipeline.describe import predicted_accuracy
    from ofatvm.pipeline.evaluate import evaluate_folder
    from ofatvm.supernet.folder import DEFAULT_SUPERNET, find_supernet

    folder = find_supernet(name or DEFAULT_SUPERNET)
    if (count is not None) == bool(words or file):
        raise UsageError(
            "give architectures with --arch or --file, or --count for random ones",
            hint=f"such as --arch {folder.space.largest().encode()}",
        )
    if count is not None:
        space = folder.space if resolution is None else folder.space.at(resolution)
        archs = folder.space.from_rows(space.sample_rows(np.random.default_rng(seed), count))
    else:
        archs = read_archs(words, file, folder.space.name, resolution)
    if data is None:
        images: Images = folder.evaluation()
        what = one_line(f"held-out images of {folder.data.get('name', folder.name)}")
    else:
        images = load_images(
            Path(data),
            classes=folder.classes,
            channels=folder.space.in_channels,
            size=folder.evaluation().native,
            cache=run.workspace / "datasets",
        )
        what = f"images of {data}"
    guesses = predicted_accuracy(archs, folder)  # what is damaged shows before the work is done
    top1 = evaluate_folder(folder, images, archs, on_event=run.on_event)
    rows: list[dict[str, Any]] = [
        {
            "arch": arch.encode(),
            "top1_percent": round(value, 3),
            "kind": "measured",
            "standard_error": round((value * (100 - value) / len(images)) ** 0.5, 3),
            "predicted_percent": None if guess is None else round(guess, 3),
            "macs": totals(operator_graph(arch)).macs,
        }
        for arch, value, guess in zip(archs, top1, guesses, strict=True)
    ]
    on = f"{len(images):,} {what}"
    result = {"supernet": folder.name, "images": len(images), "on": on, "subnets": rows}
    return Result(result, lambda width: f"{table(rows, COLUMNS, width)}\n\nmeasured on {on}")
