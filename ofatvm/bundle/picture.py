"""What a bundle's run.py makes of a picture, by run.py's own code."""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ofatvm.bundle.manifest import Preprocessing
from ofatvm.bundle.templates.run import load_image
from ofatvm.errors import BundleError


def picture_input(path: Path, preprocessing: Preprocessing) -> np.ndarray:
    """The network's input (1, crop, crop, channels) float32 for a picture, as run.py computes it.

    A file that is no picture is a BundleError.
    """
    from PIL import Image

    said = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stderr(said):
        try:
            result: np.ndarray = load_image(path, asdict(preprocessing), np, Image)
        except SystemExit:  # how run.py ends when it cannot go on
            raise BundleError(said.getvalue().strip().removeprefix("error: ")) from None
    return result


def normalised(images: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """The network's input for images (n, crop, crop, channels) uint8, float32."""
    mean, std = (
        np.array(values, dtype=np.float32) for values in (preprocessing.mean, preprocessing.std)
    )
    result: np.ndarray = (images.astype(np.float32) / 255 - mean) / std
    return result
