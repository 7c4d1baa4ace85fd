"""A trained supernet on disk: what `ofatvm train` leaves, and all that comes after it needs.

    supernet.json        what it is: space, classes, normalisation, data, training, figures, digests
    weights.safetensors  the weights, under the published key names
    calibration.npz      training images that batch-norm statistics are recomputed on
    evaluation.npz       held-out images with labels, on which accuracy is measured
    accuracy.csv         evaluated subnets; accuracy.json  the model fitted to them
    samples/             a few pictures, each named NUMBER-CLASS.png
    README.md            the model card

Reading loads no torch. Files from others are untrusted: sizes are bounded, digests are compared
before a file is used, and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofatvm.arch import ArchSpace
from ofatvm.errors import ArchError, CheckpointError, DatasetError, MissingInputError, shorten
from ofatvm.files import read_file, replace_file
from ofatvm.paths import data_dir
from ofatvm.spaces import find_space
from ofatvm.text import is_line

if TYPE_CHECKING:
    import numpy as np

    from ofatvm.data import ArrayImages

SCHEMA = 1
FILE_NAME = "supernet.json"
WEIGHTS, ACCURACY_MODEL, ACCURACY_TABLE = "weights.safetensors", "accuracy.json", "accuracy.csv"
CALIBRATION, EVALUATION, CARD = "calibration.npz", "evaluation.npz", "README.md"
SAMPLES = "samples"
DEFAULT_SUPERNET = "fashion-mnist"
MAX_JSON_BYTES = 4 << 20
MAX_IMAGES_BYTES = 256 << 20
PNG = b"\x89PNG\r\n\x1a\n"
SAMPLE_NAME = re.compile(r"samples/(\d{1,6})-\d{1,3}\.png")
_KEYS = {
    *("schema", "kind", "name", "space", "classes", "mean", "std"),
    *("data", "training", "figures", "files"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SupernetFolder:
    """What supernet.json says; `path` is the folder.

    `mean` and `std` are per channel, of pixels in 0..1. `data` says what it was trained on,
    `training` how, `figures` what came out; `files` has the sha256 of every other file.
    """

    path: Path
    name: str
    space: ArchSpace
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data: Mapping[str, Any]
    training: Mapping[str, Any]
    figures: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def weights(self) -> Path:
        """The weight file; its digest is compared here."""
        self._checked(WEIGHTS, MAX_IMAGES_BYTES * 16)
        return self.path / WEIGHTS

    @property
    def accuracy_model(self) -> Path:
        """The accuracy model's file; its digest is compared here."""
        self._checked(ACCURACY_MODEL, MAX_JSON_BYTES)
        return self.path / ACCURACY_MODEL

    def calibration(self) -> ArrayImages:
        """The training images for batch-norm statistics, with their labels."""
        return self._images(CALIBRATION)

    def evaluation(self) -> ArrayImages:
        """The held-out images with their labels."""
        return self._images(EVALUATION)

    def samples(self) -> list[tuple[Path, str]]:
        """The sample pictures with the names of their classes."""
        found = []
        for name in sorted(self.files):
            match = SAMPLE_NAME.fullmatch(name)
            if match and int(match[1]) < len(self.classes):
                if not self._checked(name, MAX_JSON_BYTES).startswith(PNG):
                    raise CheckpointError(f"{self.path / name} is no PNG", hint="remove it")
                found.append((self.path / name, self.classes[int(match[1])]))
        return found

    def _checked(self, name: str, limit: int) -> bytes:
        """A file's bytes, once it has the digest that supernet.json gives it."""
        path = self.path / name
        if name not in self.files:
            raise MissingInputError(f"{self.path} has no {name}", hint="train it again")
        try:
            data = read_file(path, limit)
        except FileNotFoundError:
            raise MissingInputError(
                f"{path} cannot be read: it is not there", hint="restore it, or train again"
            ) from None
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be read: {error.strerror}", hint="restore it, or train again"
            ) from None
        if hashlib.sha256(data).hexdigest() != self.files[name]:
            raise CheckpointError(
                f"{path} does not have the digest that {FILE_NAME} gives",
                hint="restore it, or train again",
            )
        return data

    def _images(self, name: str) -> ArrayImages:
        from ofatvm.data import ArrayImages
        from ofatvm.data.labels import checked_labels
        from ofatvm.data.npz import read_npz

        self._checked(name, MAX_IMAGES_BYTES)
        path = self.path / name
        try:
            pixels, labels, _ = read_npz(path, limit_bytes=MAX_IMAGES_BYTES)
            known = checked_labels(labels, str(path), classes=len(self.classes))
        except DatasetError as error:
            raise CheckpointError(error.message, hint="train it again") from None
        if pixels.shape[-1] != self.space.in_channels:
            raise CheckpointError(
                f"images in {path} must have {self.space.in_channels} channels, got {pixels.shape}"
            )
        return ArrayImages(pixels, known)


def read_supernet(path: Path) -> SupernetFolder:
    """The supernet in a folder; MissingInputError if it is none, CheckpointError if damaged."""
    from ofatvm.data.labels import check_names

    file = path / FILE_NAME
    try:
        data = read_file(file, MAX_JSON_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        unfinished = (path / "training").is_dir()
        raise MissingInputError(
            f"{path} holds no trained supernet (no {FILE_NAME})",
            hint="its training is not finished: `ofatvm train` with the same options continues it"
            if unfinished
            else "make one with `ofatvm train`",
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{file} cannot be read: {error.strerror}", hint="restore it, or train again"
        ) from None
    try:
        value = json.loads(data)
        if value["schema"] != SCHEMA or value["kind"] != "supernet":
            raise ValueError(f"it is not of schema {SCHEMA}")
        if set(value) != _KEYS:
            raise ValueError(f"unknown or missing keys {sorted(set(value) ^ _KEYS)}")
        space = find_space(value["space"])
        folder = SupernetFolder(
            path=path,
            name=str(value["name"]),
            space=space,
            classes=tuple(map(str, value["classes"])),
            mean=tuple(map(float, value["mean"])),
            std=tuple(map(float, value["std"])),
            data=dict(value["data"]),
            training=dict(value["training"]),
            figures=dict(value["figures"]),
            files={str(key): str(digest) for key, digest in dict(value["files"]).items()},
        )
        # Half a surrogate pair is no text: what cannot be encoded could not be shipped.
        json.dumps(value, ensure_ascii=False).encode()
        if not is_line(folder.name):
            raise ValueError("its name must be one line of printable text")
        check_names(folder.classes, "it")
        if len(folder.classes) != space.classes:
            raise ValueError(f"{len(folder.classes)} classes, its space has {space.classes}")
        if not len(folder.mean) == len(folder.std) == space.in_channels:
            raise ValueError(f"mean and std need {space.in_channels} values")
        if not all(map(math.isfinite, (*folder.mean, *folder.std))) or min(folder.std) <= 0:
            raise ValueError("mean and std must be finite numbers, std above 0")
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
        ArchError,
        DatasetError,
    ) as error:
        reason = shorten(f"no key {error}" if isinstance(error, KeyError) else str(error), 200)
        raise CheckpointError(f"{file} is damaged: {reason}", hint="train it again") from None
    return folder


def find_supernet(text: str) -> SupernetFolder:
    """A shipped supernet by its name, or any by the path of its folder."""
    if re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", text) and (data_dir("supernets") / text).is_dir():
        return read_supernet(data_dir("supernets") / text)
    if not Path(text).is_dir():
        known = ", ".join(shipped_supernets()) or "none"
        raise MissingInputError(
            f"no supernet {shorten(text)!r}",
            hint=f"give a folder that `ofatvm train` made, or the name of a shipped one ({known})",
        )
    return read_supernet(Path(text))


def shipped_supernets() -> list[str]:
    """Names of the supernets that ship with ofatvm."""
    return sorted(path.parent.name for path in data_dir("supernets").glob(f"*/{FILE_NAME}"))


def write_supernet(folder: SupernetFolder, contents: Mapping[str, bytes]) -> SupernetFolder:
    """Write the files, each whole, and supernet.json last: without it a folder is unfinished.

    An older supernet in the folder is gone from the first moment on. Gives the folder with the
    digests in it.
    """
    (folder.path / FILE_NAME).unlink(missing_ok=True)
    for old in (folder.path / SAMPLES).glob("*.png"):
        if SAMPLE_NAME.fullmatch(f"{SAMPLES}/{old.name}"):
            old.unlink()
    for name, data in contents.items():
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        replace_file(folder.path / name, data)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    value = {
        "schema": SCHEMA,
        "kind": "supernet",
        "name": folder.name,
        "space": folder.space.name,
        "classes": list(folder.classes),
        "mean": list(folder.mean),
        "std": list(folder.std),
        "data": dict(folder.data),
        "training": dict(folder.training),
        "figures": dict(folder.figures),
        "files": digests,
    }
    replace_file(folder.path / FILE_NAME, json.dumps(value, indent=1).encode() + b"\n")
    return read_supernet(folder.path)


def packed_images(images: np.ndarray, labels: np.ndarray) -> bytes:
    """An .npz of uint8 `images` (n, h, w, c) and `labels` (n,)."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=images, labels=labels)
    return buffer.getvalue()
