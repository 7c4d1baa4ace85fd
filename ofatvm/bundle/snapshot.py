"""A private, checked copy of a bundle: what was hashed is what is looked at and run."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ofatvm.bundle.manifest import (
    FILE_NAME,
    MAX_MANIFEST_BYTES,
    Manifest,
    parse_manifest,
)
from ofatvm.errors import BundleError, MissingInputError

CHUNK = 1 << 20
REQUIRED = ("model.so", "run.py", "main.cc", "README.md", "sample/input.npy", "sample/output.npy")


def read_manifest(bundle: Path) -> Manifest:
    """The manifest of a bundle's folder; no other file is opened."""
    if not os.path.lexists(bundle):
        raise MissingInputError(f"there is no bundle {bundle}", hint="ofatvm search makes one")
    if not bundle.is_dir():
        raise BundleError(f"{bundle} is not a folder")
    try:
        with _open(bundle, FILE_NAME) as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        raise BundleError(f"{bundle} is not a bundle: it has no {FILE_NAME}") from None
    return parse_manifest(data)


def check_tree(bundle: Path, manifest: Manifest) -> None:
    """Refuse whatever is no plain file that the manifest lists, nor a folder on the way to one."""
    for name in REQUIRED:
        if name not in manifest.files:
            raise BundleError(f"{FILE_NAME} does not list {name}, which every bundle has")
    expected = {FILE_NAME, *manifest.files}
    folders = {str(parent) for name in manifest.files for parent in Path(name).parents}
    found = set()
    for name, info in _walk(bundle, ""):
        if stat.S_ISDIR(info.st_mode):
            if name not in folders:
                raise BundleError(f"folder {name!r} is not listed in {FILE_NAME}")
            continue
        _check_plain(name, info)
        if name not in expected:
            raise BundleError(f"file {name!r} is not listed in {FILE_NAME}")
        found.add(name)
    for name in sorted(expected - found):
        raise BundleError(f"{name} is listed in {FILE_NAME} and is not there")


def copy_checked(bundle: Path, manifest: Manifest, into: Path) -> None:
    """Copy every listed file to `into`; BundleError at the first whose size or digest is wrong."""
    for name, entry in manifest.files.items():
        digest = hashlib.sha256()
        copy = into / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        with _open(bundle, name) as source, copy.open("wb") as target:
            size = os.fstat(source.fileno()).st_size
            if size != entry.size_bytes:
                raise BundleError(f"{name} has {size} bytes, {FILE_NAME} says {entry.size_bytes}")
            left = size
            while left and (chunk := source.read(min(CHUNK, left))):
                left -= len(chunk)
                digest.update(chunk)
                target.write(chunk)
        if digest.hexdigest() != entry.sha256:
            raise BundleError(
                f"{name} does not have the sha256 that {FILE_NAME} says",
                hint="the bundle was damaged or changed; make or fetch it again",
            )


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name, info = prefix + entry.name, entry.stat(follow_symlinks=False)
            yield name, info
            if stat.S_ISDIR(info.st_mode):
                yield from _walk(folder / entry.name, f"{name}/")


def _check_plain(name: str, info: os.stat_result) -> None:
    if stat.S_ISLNK(info.st_mode):
        raise BundleError(f"{name!r} is a symbolic link; a bundle holds plain files only")
    if not stat.S_ISREG(info.st_mode):
        raise BundleError(f"{name!r} is a device, pipe or socket; a bundle holds plain files only")
    if info.st_nlink > 1:
        raise BundleError(
            f"{name!r} is a hard link, which may be changed from elsewhere",
            hint="copy the bundle (cp -r) and verify the copy",
        )


def _open(bundle: Path, name: str) -> BinaryIO:
    """Open a plain file inside the bundle, following no link and waiting on no pipe."""
    *folders, last = name.split("/")
    inside = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            outer, flags = inside, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            inside = os.open(folder, flags, dir_fd=outer)
            os.close(outer)
        info = os.stat(last, dir_fd=inside, follow_symlinks=False)
        _check_plain(name, info)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.fdopen(os.open(last, flags, dir_fd=inside), "rb")
    finally:
        os.close(inside)
    _check_plain(name, os.fstat(file.fileno()))
    return file
