"""`ofatvm train`: a supernet from pictures."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from ofatvm.cli.main import Run, common_options
from ofatvm.cli.options import COUNT, SEED, SHARE, PositiveNumber, WholeNumber
from ofatvm.cli.render import Result, pairs, seconds_text
from ofatvm.errors import BudgetError, UsageError
from ofatvm.torchrun import end_with_torchrun

EPILOG = """Interrupted, even by kill -9, the same command without --fresh continues. Several
processes train together under torchrun: torchrun --nproc-per-node 2 -m ofatvm train ..."""


@click.command("train", help="Train a supernet on your own pictures.", epilog=EPILOG)
@click.option("--data", required=True, help="Image folder, .npz, or folder of a known set.")
@click.option("--space", "space_name", default="small28", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Supernet folder.")
@click.option("--name", help="What to call the supernet.  [default: the folder's name]")
@click.option("--licence", help="Licence of the pictures, for the model card.")
@click.option(
    "--recipe",
    type=click.Choice(["sandwich", "progressive"]),
    default="sandwich",
    show_default=True,
)
@click.option("--epochs", type=WholeNumber(1, 10_000), default=30, show_default=True)
@click.option("--batch", type=WholeNumber(2, 65_536), default=64, show_default=True)
@click.option(
    "--learning-rate",
    type=PositiveNumber("", 100.0),
    default=0.1,
    show_default=True,
    help="The highest.",
)
@click.option("--weight-decay", type=SHARE, default=1e-4, show_default=True)
@click.option("--label-smoothing", type=SHARE, default=0.1, show_default=True)
@click.option("--ema-decay", type=SHARE, default=0.0, show_default=True, help="0 for none.")
@click.option("--flip/--no-flip", default=True, help="Mirror pictures at random.  [default: flip]")
@click.option("--shift", type=WholeNumber(0, 512), default=2, show_default=True, help="Pixels.")
@click.option("--erase", type=SHARE, default=0.0, show_default=True, help="Share of pictures.")
@click.option(
    "--crop",
    type=SHARE,
    default=0.0,
    show_default=True,
    help="Least share of a picture that a random crop keeps; 0 for none.",
)
@click.option(
    "--channels", type=click.Choice(["1", "3"]), help="Grey or RGB. [default: the data's]"
)
@click.option("--holdout", type=COUNT, help="Pictures to hold out.  [default: a sixth]")
@click.option("--test", "test_path", help="Set for reporting alone: no choice depends on it.")
@click.option(
    "--subnets",
    type=WholeNumber(40, 10_000),
    default=400,
    show_default=True,
    help="To evaluate after.",
)
@click.option("--download", is_flag=True, help="Fetch a known set by its name in --data.")
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("--fresh", is_flag=True, help="Start over.")
@common_options
def command(
    run: Run,
    data: str,
    space_name: str,
    out: Path,
    name: str | None,
    licence: str | None,
    recipe: str,
    epochs: int,
    batch: int,
    learning_rate: float,
    weight_decay: float,
    label_smoothing: float,
    ema_decay: float,
    flip: bool,
    shift: int,
    erase: float,
    crop: float,
    channels: str | None,
    holdout: int | None,
    test_path: str | None,
    subnets: int,
    download: bool,
    seed: int,
    fresh: bool,
) -> Result:
    """Load the pictures, train, evaluate, write the folder."""
    from ofatvm.data import load_dataset, load_images
    from ofatvm.pipeline.table import fewest_subnets
    from ofatvm.pipeline.train import Leaving, check_out, train_supernet
    from ofatvm.spaces import base_space, find_space, space_for
    from ofatvm.supernet.card import model_text
    from ofatvm.supernet.recipe import RECIPES, RunConfig

    end_with_torchrun()
    base = find_space(space_name)
    phases = RECIPES[recipe](base, epochs, learning_rate)
    config = RunConfig(
        recipe=recipe,
        phases=phases,
        batch=batch,
        seed=seed,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        ema_decay=ema_decay,
        flip=flip,
        shift=shift,
        erase=erase,
        crop=crop,
    )
    check_out(out, fresh=fresh)
    _check_apart(out, data, test_path)
    if subnets < fewest_subnets(base):
        raise BudgetError(
            f"--subnets must be at least {fewest_subnets(base)} for {base.name}, got {subnets}"
        )
    size, cache = base.resolutions[-1], run.workspace / "datasets"
    dataset = load_dataset(
        Path(data),
        seed=seed,
        holdout=holdout,
        channels=None if channels is None else int(channels),
        download=download,
        cache=cache,
        size=size,
    )
    space = space_for(base, classes=len(dataset.classes), in_channels=dataset.channels)
    if base_space(base).name != base.name != space.name:
        colour = {1: "grey", 3: "RGB"}
        raise UsageError(
            f"{base.code} is for {base.classes} classes of {colour[base.in_channels]} pictures, "
            f"{data} has {len(dataset.classes)} of {colour[dataset.channels]} ones",
            hint=f"give --space {base_space(base).code}, which takes those of the pictures",
        )
    test = dataset.test
    if test_path is not None:
        if test is None and Path(test_path).resolve() == Path(data).resolve():
            raise UsageError(
                f"--test {test_path} is what it trains on", hint="name pictures of their own"
            )
        test = load_images(
            Path(test_path),
            classes=dataset.classes,
            channels=dataset.channels,
            size=size,
            cache=cache,
            apart_from=dataset,
        )
    leaving = Leaving(
        name=name or out.absolute().name,
        table_size=subnets,
        **({} if licence is None else {"licence": licence}),
    )
    folder = train_supernet(
        dataset, space, config, out, leaving, test=test, fresh=fresh, on_event=run.on_event
    )
    if folder is None:  # the first process of torchrun has the result, and prints it
        raise click.exceptions.Exit(0)
    figures = folder.figures
    facts = {
        "supernet": str(out),
        "space": f"{space.name}, {space.size():.3g} subnets a resolution",
        "trained": f"{config.epochs} epochs in {seconds_text(folder.training['seconds'])}",
        "largest": f"{figures['largest_percent']:.2f} % top-1, measured on "
        f"{figures['evaluated_on']}",
        "smallest": f"{figures['smallest_percent']:.2f} %",
        "accuracy model": model_text(figures["accuracy_model"]),
    }
    if "test" in figures:
        tested = figures["test"]
        facts["test"] = (
            f"largest {tested['largest_percent']:.2f} %, smallest "
            f"{tested['smallest_percent']:.2f} %, {tested['random']} random ones "
            f"{tested['random_worst_percent']:.2f} to {tested['random_best_percent']:.2f} % of "
            f"{tested['images']:,} test images"
        )
    # A bare name would mean a supernet that ships with ofatvm.
    there = out if len(out.parts) > 1 else f"./{out}"
    facts["next"] = f"ofatvm search --target host --supernet {shlex.quote(str(there))}"
    return Result(
        {"supernet": str(out), "space": space.name, "figures": dict(figures)},
        lambda width: pairs(facts, width),
    )


def _check_apart(out: Path, data: str, test: str | None) -> None:
    """UsageError if the supernet would lie among class folders, as one of them."""
    from ofatvm.data.folder import subfolders

    places = (out.resolve(), *out.resolve().parents)
    for option, given in (("--data", data), ("--test", test)):
        if given is None or Path(given).resolve() not in places[1:]:
            continue
        if any(folder.resolve() not in places for folder in subfolders(Path(given))):
            raise UsageError(
                f"--out {out} lies among the class folders of {option} {given}",
                hint="give a folder beside them",
            )
