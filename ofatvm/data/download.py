"""Fetching a named dataset, which happens only when the user asks for it."""

from __future__ import annotations

import hashlib
import io
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ofatvm.data.binary import CIFAR10_FILES
from ofatvm.errors import MissingInputError
from ofatvm.files import replace_file
from ofatvm.torchrun import first_of_machine

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT_BYTES = 256 << 20
TIMEOUT_S = 60.0
WAIT_S, LOOK_S = 3600.0, 0.2  # for another process's fetching, and from look to look


@dataclass(frozen=True, slots=True)
class Source:
    """Where a set is published: (file, MD5) pairs below an address, and the files it is made of."""

    address: str
    published: tuple[tuple[str, str], ...]
    files: tuple[str, ...]


IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
# The publishers state MD5 sums, which find damage; the addresses are https.
SOURCES = {
    "fashion-mnist": Source(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        tuple(
            zip(
                IDX_FILES,
                (
                    "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                    "25c81989df183df01b3e8a0aad5dffbe",
                    "bef4ecab320f06d8554ea6380940ec79",
                    "bb300cfdad3c16e7a12a480ee83cd310",
                ),
                strict=True,
            )
        ),
        IDX_FILES,
    ),
    "mnist": Source(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        tuple(
            zip(
                IDX_FILES,
                (
                    "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                    "d53e105ee54ea40749a09fcbcd1e9432",
                    "9fb629c4189551a2d022fa330f9573f3",
                    "ec29112dd5afa0611ce80d1b7f02629c",
                ),
                strict=True,
            )
        ),
        IDX_FILES,
    ),
    "cifar10": Source(
        "https://www.cs.toronto.edu/~kriz/",
        (("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),),
        (*CIFAR10_FILES, "test_batch.bin", "batches.meta.txt"),
    ),
}


def fetched(name: str, *, cache: Path, fetch: Callable[[str], bytes] | None = None) -> Path:
    """The folder below `cache` with the set's files, fetched unless they are all there.

    Of several processes that train together, the first on each machine fetches, the others wait
    for the files. Where that fails torchrun ends them all.
    """
    source = SOURCES[name]
    folder = cache / name
    if is_cached(name, cache):
        return folder
    if not first_of_machine():
        return awaited(name, cache=cache)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, md5 in source.published:
            data = (fetch or fetch_https)(source.address + file)
            found = hashlib.md5(data, usedforsecurity=False).hexdigest()
            if found != md5:
                raise MissingInputError(
                    f"{source.address}{file} came with MD5 {found} instead of {md5}",
                    hint="try again later, or give --data a path",
                )
            if file in source.files:
                replace_file(folder / file, data)
            else:
                unpack(data, folder, source.files)
    except (OSError, tarfile.TarError, EOFError) as error:
        raise MissingInputError(
            f"{name} cannot be fetched from {source.address} into {folder}: {error}",
            hint="without network, give --data a path",
        ) from error
    return folder


def awaited(name: str, *, cache: Path, seconds: float = WAIT_S) -> Path:
    """The folder, as soon as another process has fetched all of its files."""
    deadline = time.monotonic() + seconds
    while not is_cached(name, cache):
        if time.monotonic() > deadline:
            raise MissingInputError(
                f"the first process has not fetched {name} into {cache / name} in {seconds:g} s",
                hint="fetch it without torchrun",
            )
        time.sleep(LOOK_S)
    return cache / name


def is_cached(name: str, cache: Path) -> bool:
    """Whether all files of a set were fetched before."""
    return all((cache / name / file).is_file() for file in SOURCES[name].files)


def fetch_https(address: str) -> bytes:
    """What an https address gives; anything that goes wrong is an OSError."""
    from http.client import HTTPException
    from urllib.request import urlopen

    try:
        with urlopen(address, timeout=TIMEOUT_S) as response:
            if not response.url.startswith("https://"):
                raise OSError(f"{address} led to {response.url}, which is not https")
            data: bytes = response.read(LIMIT_BYTES + 1)
    except HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    if len(data) > LIMIT_BYTES:
        raise OSError(f"{address} gave more than {LIMIT_BYTES} bytes")
    return data


def unpack(data: bytes, folder: Path, files: tuple[str, ...]) -> None:
    """Write the wanted files of a .tar.gz into `folder`, whatever folder they have in it."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for member in archive:
            name = PurePosixPath(member.name).name
            if name in files and member.isfile() and (stream := archive.extractfile(member)):
                replace_file(folder / name, stream.read())
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise tarfile.TarError(f"the archive lacks {', '.join(missing)}")
