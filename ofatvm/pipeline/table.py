"""The accuracy table: which subnets of a trained supernet are evaluated, and what came out."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ofatvm.arch import Arch, ArchSpace, leaning
from ofatvm.events import Event, Notice, ignore
from ofatvm.files import read_file
from ofatvm.supernet.evaluate import Exam, evaluate
from ofatvm.text import counted

KEY_BATCH = 256


def fewest_subnets(space: ArchSpace) -> int:
    """How many subnets a table needs so that a model can be fitted and tested."""
    return max(40, 8 * len(space.resolutions))


def table_archs(space: ArchSpace, count: int, seed: int) -> tuple[list[Arch], np.ndarray]:
    """`count` distinct architectures and which of them were drawn uniformly, (count,) bool.

    The largest and the smallest at every resolution come first. The others take the resolutions in
    turn; half of them is drawn uniformly, half leans towards small or large by a share of its own,
    so that the whole range of sizes is there.
    """
    rng = np.random.default_rng([seed, 11])
    ends = [arch(r) for r in space.resolutions for arch in (space.largest, space.smallest)]
    found = dict.fromkeys(ends, False)
    for number in range(50 * count):
        if len(found) >= count:
            break
        resolution = space.resolutions[number // 2 % len(space.resolutions)]
        uniform = number % 2 == 0
        arch = space.sample(rng) if uniform else _leaning(space, rng)
        found.setdefault(arch.at(resolution), uniform)
    archs = list(found)[:count]
    return archs, np.array([found[arch] for arch in archs])


def _leaning(space: ArchSpace, rng: np.random.Generator) -> Arch:
    share = rng.uniform()
    return space.arch(
        leaning(rng, share, space.kernels, space.blocks),
        leaning(rng, share, space.expands, space.blocks),
        leaning(rng, share, space.depths, len(space.stages)),
    )


def examined(
    weights: Path,
    space: ArchSpace,
    exam: Exam,
    archs: Sequence[Arch],
    journal: Path,
    *,
    on_event: Callable[[Event], None] = ignore,
) -> np.ndarray:
    """Which of the exam's images each architecture classifies right, (archs, images) bool.

    Every result is a line of `journal` before it counts; what it holds already of the same weights
    and the same exam is not computed again.
    """
    images, key = len(exam.images), _exam_key(weights, exam)
    known = _read(journal, key, images)
    missing = [arch for arch in archs if arch.encode() not in known]
    if known and missing:
        on_event(Notice("info", f"{counted(len(archs) - len(missing), 'subnet')} evaluated before"))
    if missing:
        with journal.open("ab") as file:

            def keep(arch: Arch, correct: np.ndarray) -> None:
                known[arch.encode()] = correct
                bits = base64.b64encode(np.packbits(correct).tobytes()).decode()
                line = json.dumps({"key": key, "arch": arch.encode(), "correct": bits})
                # A line of its own also after a torn one.
                file.write(b"\n" + line.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())

            evaluate(weights, space, exam, missing, on_result=keep, on_event=on_event)
    return np.stack([known[arch.encode()] for arch in archs])


def _exam_key(weights: Path, exam: Exam) -> str:
    """A name for everything that decides an accuracy but the architecture."""
    digest = hashlib.sha256(weights.read_bytes())
    digest.update(repr((exam.mean, exam.std)).encode())
    for images in (exam.calibration, exam.images):
        rows = np.arange(len(images))
        digest.update(images.labels.tobytes())
        for start in range(0, len(rows), KEY_BATCH):
            digest.update(images.batch(rows[start : start + KEY_BATCH], images.native).tobytes())
    return digest.hexdigest()[:32]


def _read(journal: Path, key: str, images: int) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    if not journal.exists():
        return found
    for line in read_file(journal).splitlines():
        try:
            entry = json.loads(line)
            bits = np.frombuffer(base64.b64decode(entry["correct"], validate=True), np.uint8)
            if entry["key"] == key and len(bits) == -(-images // 8):
                found[str(entry["arch"])] = np.unpackbits(bits, count=images).astype(bool)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # torn by a kill: that subnet is evaluated again
    return found


def table_csv(archs: Sequence[Arch], correct: np.ndarray, uniform: np.ndarray) -> bytes:
    """The table as it ships: architecture, right answers, images, whether drawn uniformly."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["arch", "correct", "images", "uniform_sample"])
    for arch, row, drawn in zip(archs, correct, uniform, strict=True):
        writer.writerow([arch.encode(), int(row.sum()), len(row), int(drawn)])
    return text.getvalue().encode()
