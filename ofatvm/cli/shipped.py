"""How commands that ship a bundle speak of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofatvm.elf import elf_machine, host_machine
from ofatvm.errors import BundleError
from ofatvm.road import Ir
from ofatvm.text import counted


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
    return f"same class as PyTorch for {share:.5g} % of {counted(images, 'image')}"


def verified_text(verified: Mapping[str, Any] | None) -> str | None:
    """How the shipped code was compared with PyTorch, or why it was not."""
    if verified is None or verified["max_error"] is None:
        return None if verified is None else str(verified["how"])
    error, images = verified["max_error"], verified["images"]
    compared = f"{counted(images, 'image')}, {verified['how']}"
    return f"max error {error:.1e} of the largest output, {compared}"


def next_steps(bundle: str | Path, ir: Ir = "relax") -> dict[str, str]:
    """What to type next: verify the bundle, and try it on its own picture if it has one.

    Code for another machine cannot be tried here. What came through Relay runs under the Python
    of its own environment.
    """
    folder = Path(bundle)
    steps = {"next": f"ofatvm verify {shlex.quote(str(folder))}"}
    picture = folder / "sample" / "image.png"
    if picture.is_file() and _is_for_here(folder / "model.so"):
        script = shlex.quote(str(folder / "run.py"))
        steps["and"] = f"{_python(ir)} {script} {shlex.quote(str(picture))}"
    return steps


def _python(ir: Ir) -> str:
    if ir == "relax":
        return "python"
    from ofatvm.compiler.relay_env import relay_python

    path = relay_python()
    near = path.is_relative_to(Path.cwd())
    return shlex.quote(str(path.relative_to(Path.cwd()) if near else path))


def _is_for_here(model: Path) -> bool:
    try:
        return elf_machine(model) == host_machine()
    except (BundleError, OSError):
        return False
