"""How commands that ship a bundle speak of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def accuracy_text(accuracy: Mapping[str, Any] | None) -> str | None:
    """The accuracy in a manifest, with what kind it is and on what."""
    if accuracy is None:
        return None
    return f"{accuracy['top1_percent']:.2f} % top-1, {accuracy['kind']}: {accuracy['on']}"


def agreement_text(agreement: Mapping[str, Any] | None) -> str | None:
    """The share of images for which the shipped code names the class that PyTorch names."""
    if agreement is None:
        return None
    share, images = agreement["same_class_percent"], agreement["images"]
    return f"same class as PyTorch for {share:.5g} % of {images} images"


def next_steps(bundle: str | Path) -> dict[str, str]:
    """What to type next: verify the bundle, and try it on its own picture if it has one."""
    folder = Path(bundle)
    steps = {"next": f"ofatvm verify {shlex.quote(str(folder))}"}
    picture = folder / "sample" / "image.png"
    if picture.is_file():
        script = shlex.quote(str(folder / "run.py"))
        steps["and"] = f"python {script} {shlex.quote(str(picture))}"
    return steps
