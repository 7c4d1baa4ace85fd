"""Whether parts of a set share pictures: then what is measured on one tells nothing of others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from ofatvm.data.dataset import ArrayImages, Images
from ofatvm.errors import DatasetError

END_BYTES = 4096
# Of arrays, nobody can say where a picture came from, and published sets hold some twice: 8 of
# 5,000 test pictures of Fashion-MNIST are in its training part.
SHARED = 0.1


def check_files_apart(parts: Mapping[str, tuple[Path, ...]]) -> None:
    """DatasetError if a file is in two parts, under whatever name.

    Only files of one size are read, and nearly always no more of them than their ends.
    """
    sizes: dict[int, list[tuple[str, Path]]] = {}
    for part, paths in parts.items():
        for path in paths:
            sizes.setdefault(path.stat().st_size, []).append((part, path))
    twins = []
    for group in sizes.values():
        if len({part for part, _ in group}) > 1:
            alike: dict[bytes, list[tuple[str, Path]]] = {}
            for part, path in group:
                alike.setdefault(_end_of(path), []).append((part, path))
            twins += [twin for same in alike.values() for twin in _twins(same)]
    if twins:
        one, other = twins[0]
        more = f" (and {len(twins) - 1} more)" if len(twins) > 1 else ""
        raise DatasetError(
            f"the same picture is in two parts: {other} is {one}{more}",
            hint="remove it from one of them",
        )


def _end_of(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - END_BYTES))
        return file.read()


def _twins(alike: list[tuple[str, Path]]) -> list[tuple[Path, Path]]:
    """Files of later parts, each behind an equal one of an earlier part."""
    seen: dict[bytes, tuple[str, Path]] = {}
    twins = []
    if len({part for part, _ in alike}) > 1:
        for part, path in alike:
            where, first = seen.setdefault(hashlib.sha256(path.read_bytes()).digest(), (part, path))
            if where != part:
                twins.append((first, path))
    return twins


def check_arrays_apart(parts: Mapping[str, Images | None]) -> None:
    """DatasetError if more than a tenth of a part's pictures are in an earlier part.

    `parts` has what each is called, as in "the test part of x.npz". Pictures that stay in their
    files are passed over.
    """
    earlier: dict[str, set[bytes]] = {}
    for name, images in parts.items():
        if not isinstance(images, ArrayImages):
            continue
        own = set(_digests(images))
        for other, known in earlier.items():
            shared = len(own & known)
            if shared > SHARED * len(own):
                raise DatasetError(
                    f"{shared} of the {len(own)} pictures in {name} are in {other}, too",
                    hint="give pictures that are in one of them alone",
                )
        earlier[name] = own


def copies(train: Images, val: Images) -> int:
    """How many pictures of `val` are in `train` as well; 0 where they stay in their files."""
    if not isinstance(train, ArrayImages) or not isinstance(val, ArrayImages):
        return 0
    known = set(_digests(train))
    return sum(digest in known for digest in _digests(val))


def _digests(images: ArrayImages) -> list[bytes]:
    shape = repr(images.pixels.shape[1:]).encode()
    return [
        hashlib.blake2b(shape + picture.tobytes(), digest_size=16).digest()
        for picture in images.pixels
    ]
