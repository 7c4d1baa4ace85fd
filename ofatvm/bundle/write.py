"""Write a bundle: whole, checked, and renamed into place."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace as replaced
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from ofatvm.bundle.agreement import check_agreement
from ofatvm.bundle.card import cpp_source, model_card, runner_source
from ofatvm.bundle.manifest import FILE_NAME, Elf, FileEntry, Manifest, parse_manifest
from ofatvm.bundle.snapshot import check_tree, read_manifest
from ofatvm.elf import read_elf
from ofatvm.errors import BundleError, MissingInputError, OfatvmError
from ofatvm.files import exchange, scratch_folder
from ofatvm.text import is_line

if TYPE_CHECKING:
    import numpy as np

PNG = b"\x89PNG\r\n\x1a\n"


def write_bundle(
    out: Path,
    *,
    model: Path,
    manifest: Manifest,
    sample_input: np.ndarray,
    sample_output: np.ndarray,
    sample_image: bytes | None = None,
    labels: Sequence[str] | None = None,
    licence: str = "",
    replace: bool = False,
) -> Path:
    """Write a bundle to the folder `out` and return its path.

    `manifest` is completed with machine, size, labels and files; `licence` is that of the images
    behind weights and sample, for the model card. What is written would pass `verify_bundle` as
    far as that goes without running it. `out` is a new or empty folder, or with
    `replace` a bundle to which no file was added; anything else is a BundleError and stays.
    """
    if not model.is_file():
        raise MissingInputError(f"there is no compiled network {model}")
    if sample_image is not None and not sample_image.startswith(PNG):
        raise BundleError("the sample image must be a PNG file")
    if labels is not None:
        check_labels(labels)
    out = out.absolute()
    check_destination(out, replace=replace)
    code, facts = model.read_bytes(), read_elf(model)
    manifest = replaced(
        manifest,
        machine=facts.machine,
        elf=Elf.of(facts),
        size_bytes=len(code),
        labels=None if labels is None else "labels.txt",
    )
    files = {
        "model.so": code,
        "run.py": runner_source().encode(),
        "main.cc": _cpp(manifest).encode(),
        "README.md": _card(manifest, sample_image, licence),
        "sample/input.npy": _npy(sample_input),
        "sample/output.npy": _npy(sample_output),
    }
    if sample_image is not None:
        files["sample/image.png"] = sample_image
    if labels is not None:
        files["labels.txt"] = "".join(f"{label}\n" for label in labels).encode()
    entries = {
        name: FileEntry(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in files.items()
    }
    manifest = replaced(manifest, files=entries)
    data = manifest.to_json().encode()
    parse_manifest(data)
    temporary = scratch_folder(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        _fill(temporary, {**files, FILE_NAME: data})
        check_tree(temporary, manifest)
        check_agreement(temporary, manifest)
        _move(temporary, out, replace=replace)
    except OSError as error:
        raise _write_error(out, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def check_destination(out: Path, *, replace: bool) -> None:
    """Refuse a path whose contents a bundle must not take the place of."""
    if out.is_symlink():
        raise BundleError(f"{out} is a symbolic link", hint="give the folder itself")
    if not out.exists():
        return
    if not out.is_dir():
        raise BundleError(f"{out} is a file, not a folder", hint="choose another folder")
    if not any(out.iterdir()):
        return
    try:
        check_tree(out, read_manifest(out))
    except BundleError as error:
        raise BundleError(
            f"{out} holds something else than a bundle: {error.message}",
            hint="choose another folder; nothing was changed",
        ) from None
    if not replace:
        raise BundleError(
            f"there is a bundle in {out} already",
            hint="choose another folder, or ask to replace it",
        )


def check_labels(labels: Sequence[str]) -> None:
    """Refuse class names that labels.txt cannot hold, a line each."""
    for label in labels:
        if not is_line(label):
            raise BundleError(f"a label must be one line of text, got {label[:60]!r}")


def _card(manifest: Manifest, image: bytes | None, licence: str) -> bytes:
    return model_card(manifest, image=image is not None, licence=licence).encode(
        "utf-8", "backslashreplace"
    )


def _cpp(manifest: Manifest) -> str:
    return cpp_source(manifest.inputs[0].shape, manifest.target.kind, manifest.ir)


def _npy(array: np.ndarray) -> bytes:
    import numpy as np

    buffer = BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _fill(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make the folder with these files, everything flushed to the disk."""
    folder.mkdir()
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    for path in {(folder / name).parent for name in files}:
        _flush_folder(path)


def _move(temporary: Path, out: Path, *, replace: bool) -> None:
    """Put the finished folder in its place; an older bundle stands there until that moment.

    Where the file system cannot exchange names, there is none for a moment. Afterwards `temporary`
    is the older one, or gone.
    """
    if not replace or not out.exists():
        temporary.rename(out)
    elif not exchange(temporary, out):
        old = out.parent / f"{temporary.name}.old"
        out.rename(old)
        try:
            temporary.rename(out)
        except OSError:
            old.rename(out)
            raise
        shutil.rmtree(old, ignore_errors=True)
    _flush_folder(out.parent)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_error(out: Path, error: OSError) -> OfatvmError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OfatvmError(f"no space left on the disk of {out}", hint="free some and try again")
    return BundleError(
        f"cannot write the bundle {out}: {error.strerror or error}",
        hint="choose a folder that can be written",
    )
