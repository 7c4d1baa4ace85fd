"""Options that several commands share: target, space, records, architectures."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ofatvm.arch import DEFAULT_SPACE, Arch, ArchSpace, find_space, parse_arch
from ofatvm.cli.options import RESOLUTION, THREADS
from ofatvm.errors import ArchError, MissingInputError

F = TypeVar("F", bound=Callable[..., Any])
MAX_ARCH_FILE_BYTES = 64 << 20


def target_options(body: F) -> F:
    """--target, --threads, --space, --resolution and --tuning-logs."""
    for option in reversed(
        (
            click.option(
                "--target",
                "target_text",
                default="host",
                show_default=True,
                help="host, a name from `ofatvm targets`, a TVM string or JSON, a file.",
            ),
            click.option(
                "--threads", type=THREADS, help="Threads to run with. [default: all cores]"
            ),
            click.option(
                "--space",
                "space_name",
                default=DEFAULT_SPACE,
                show_default=True,
                help="Search space, by name or code.",
            ),
            click.option(
                "--resolution",
                type=RESOLUTION,
                help="Input height and width. [default: the space's largest]",
            ),
            click.option(
                "--tuning-logs",
                type=click.Path(path_type=Path),
                default=Path("tuning_logs"),
                show_default=True,
                help="Folder of tuning records, by target.",
            ),
        )
    ):
        body = option(body)
    return body


def read_archs(words: tuple[str, ...], file: Path | None, space: ArchSpace) -> list[Arch]:
    """Architectures given as words and as lines of a file, in order; ArchError names the line.

    Each is our encoded string or OFA's JSON. Empty lines and lines that start with # are skipped,
    but a file must hold one at least. One word that names a file stands for that file.
    """
    if len(words) == 1 and file is None and os.path.isfile(words[0]):
        words, file = (), Path(words[0])
    archs = [parse_arch(word, space) for word in words]
    if file is None:
        return archs
    if not file.is_file():
        raise MissingInputError(f"no architecture file {file}", hint="one architecture a line")
    if file.stat().st_size > MAX_ARCH_FILE_BYTES:
        raise ArchError(f"{file} is larger than {MAX_ARCH_FILE_BYTES >> 20} MB", hint="split it")
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise ArchError(f"{file} is not UTF-8 text", hint="one architecture a line") from None
    found = False
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            archs.append(parse_arch(line, space))
        except ArchError as error:
            raise ArchError(f"{file}, line {number}: {error.message}", hint=error.hint) from None
        found = True
    if not found:
        raise ArchError(f"{file} holds no architecture", hint="one architecture a line")
    return archs


def space_at(space_name: str, resolution: int | None) -> ArchSpace:
    """The named space, cut off above `resolution`, which JSON without "r" then gets."""
    space = find_space(space_name)
    if resolution is None:
        return space
    space.check_resolution(resolution)
    return space.at(*(r for r in space.resolutions if r <= resolution))
