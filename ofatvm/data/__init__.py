"""Datasets: image folders, npz, the usual names when present; nothing downloads unasked."""

from __future__ import annotations

from ofatvm.data.augment import Augment
from ofatvm.data.batches import Batch, eval_batches, steps_per_epoch, train_batches
from ofatvm.data.dataset import ArrayImages, Dataset, Images
from ofatvm.data.folder import FolderImages
from ofatvm.data.labelled import load_images
from ofatvm.data.load import load_dataset
from ofatvm.data.resize import resized

__all__ = [
    "ArrayImages",
    "Augment",
    "Batch",
    "Dataset",
    "FolderImages",
    "Images",
    "eval_batches",
    "load_dataset",
    "load_images",
    "resized",
    "steps_per_epoch",
    "train_batches",
]
