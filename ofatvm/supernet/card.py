"""README.md of a supernet folder: its model card."""

from __future__ import annotations

from ofatvm.supernet.folder import SupernetFolder


def supernet_card(folder: SupernetFolder) -> str:
    """What it is, on what and how it was trained, how good it is and where it falls short."""
    space, data, training, figures = folder.space, folder.data, folder.training, folder.figures
    lines = [
        f"# {folder.name}: a Once-for-All supernet",
        "",
        f"Weights shared by {space.size():.2e} subnets a resolution of `{space.name}`, for "
        f"{', '.join(map(str, space.resolutions))} pixels, {space.in_channels} channel"
        f"{'s' if space.in_channels > 1 else ''}.",
        "",
        "| | |",
        "|---|---|",
        f"| classes | {', '.join(folder.classes)} |",
        f"| training data | {data['name']}: {data['train_images']:,} images to train on, "
        f"{data['val_images']:,} held out |",
        f"| licence of the data | {data['licence']} |",
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
    model = figures["accuracy_model"]
    held = model["held_out"]
    lines += [
        "",
        "## Accuracy model",
        "",
        f"Fitted to {model['n_fit']} subnets, tested on {held['n']} that the fit did not see: "
        f"RMSE {held['rmse_points']:.3f} points, Spearman {held['spearman']:.3f}; noise floor of "
        f"the evaluation {model['noise_floor_points']:.3f} points. `accuracy.csv` holds all "
        "evaluated subnets.",
        "",
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
