"""README.md of a supernet folder: its model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ofatvm.supernet.folder import SupernetFolder
from ofatvm.text import literal


def supernet_card(folder: SupernetFolder) -> str:
    """What it is, on what and how it was trained, how good it is and where it falls short."""
    space, data, training, figures = folder.space, folder.data, folder.training, folder.figures
    lines = [
        f"# {literal(folder.name)}: a Once-for-All supernet",
        "",
        f"Weights shared by {space.size():.2e} subnets a resolution of `{space.name}`, for "
        f"{', '.join(map(str, space.resolutions))} pixels, {space.in_channels} channel"
        f"{'s' if space.in_channels > 1 else ''}.",
        "",
        "| | |",
        "|---|---|",
        f"| classes | {literal(', '.join(folder.classes))} |",
        f"| training data | {literal(data['name'])}: {data['train_images']:,} images to train on, "
        f"{data['val_images']:,} held out |",
        f"| licence of the data | {literal(data['licence'])} |",
        f"| recipe | {training['recipe']}, {training['epochs']} epochs, batch "
        f"{training['batch']}, seed {training['seed']} |",
        f"| time | {training['seconds'] / 60:.0f} min on {training['machine']} |",
        f"| made with | {', '.join(f'{k} {v}' for k, v in training['versions'].items())} |",
        "",
        "## Accuracy",
        "",
        f"Top-1, measured on {figures['evaluated_on']}, every subnet with batch-norm statistics "
        "of its own:",
        "",
        "| subnet | top-1 |",
        "|---|---|",
        f"| largest | {figures['largest_percent']:.2f} % |",
        f"| smallest | {figures['smallest_percent']:.2f} % |",
    ]
    test = figures.get("test")
    if test:
        lines += [
            "",
            f"On {test['images']:,} test images that had no part in training or choosing:",
            "",
            "| subnet | top-1 |",
            "|---|---|",
            f"| largest | {test['largest_percent']:.2f} % |",
            f"| smallest | {test['smallest_percent']:.2f} % |",
            f"| {test['random']} random ones at {space.resolutions[-1]} pixels | "
            f"{test['random_worst_percent']:.2f} to {test['random_best_percent']:.2f} % |",
        ]
        every = test["any_resolution"]
        if len(space.resolutions) > 1:
            lines += [
                f"| smallest at {space.resolutions[0]} pixels | "
                f"{every['smallest_percent']:.2f} % |",
                f"| {every['random']} random ones at random resolutions | "
                f"{every['random_worst_percent']:.2f} to {every['random_best_percent']:.2f} % |",
            ]
    lines += ["", "## Accuracy model", "", model_text(figures["accuracy_model"]), ""]
    lines += [
        "## Use",
        "",
        "```sh",
        "ofatvm search --target host --supernet FOLDER",
        "ofatvm evaluate --supernet FOLDER --arch ARCHITECTURE",
        "```",
        "",
        "`calibration.npz` and `evaluation.npz` are pictures of the training data (for batch-norm "
        "statistics, and held out for accuracy); they and `samples/` are under its licence.",
        "",
    ]
    return "\n".join(lines)


def model_text(report: Mapping[str, Any] | None) -> str:
    """How well the accuracy model predicts subnets that it never saw."""
    if report is None:
        return "None could be fitted to the evaluated subnets; `accuracy.csv` holds them all."
    held = report["held_out"]
    parts = [f"RMSE {held['rmse_points']:.3f} points"]
    if held["spearman"] is not None:
        parts.append(f"Spearman {held['spearman']:.3f}")
    each = ", ".join(
        f"{errors['spearman']:.3f} at {resolution}"
        for resolution, errors in report["by_resolution"].items()
        if errors["spearman"] is not None
    )
    if each:
        parts[-1] += f" ({each} pixels)"
    text = (
        f"Fitted to {report['n_fit']} subnets, tested on {held['n']} that the fit did not see: "
        f"{', '.join(parts)}; by MACs alone RMSE {report['macs_only']['rmse_points']:.3f}."
    )
    if report["noise_floor_points"] is not None:
        text += f" Noise floor of the evaluation: {report['noise_floor_points']:.3f} points."
    return f"{text} `accuracy.csv` holds all evaluated subnets."
