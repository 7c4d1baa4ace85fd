"""Options that several commands share: target, space, records, architectures."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ofatvm.arch import DEFAULT_SPACE, Arch, find_space, parse_arch
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
                help="Search space, by name or code.  [default: the architectures', or mbv3w1.0]",
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


def read_archs(
    words: tuple[str, ...], file: Path | None, space: str | None, resolution: int | None
) -> list[Arch]:
    """Architectures given as words and as lines of a file, in order; ArchError names the line.

    Each is our encoded string or OFA's JSON. Empty lines and lines that start with # are skipped,
    but a file must hold one at least. One word that names a file stands for that file. Without a
    `space` a string says its own and JSON is of the default one; `resolution` replaces theirs.
    """
    known = None if space is None else find_space(space)

    def parse(text: str) -> Arch:
        arch = parse_arch(text, known)
        return arch if resolution is None else arch.at(resolution)

    given = list(words)
    if len(given) == 1 and file is None and os.path.isfile(given[0]):
        file = Path(given.pop())
    archs = [parse(word) for word in given]
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
            archs.append(parse(line))
        except ArchError as error:
            raise ArchError(f"{file}, line {number}: {error.message}", hint=error.hint) from None
        found = True
    if not found:
        raise ArchError(f"{file} holds no architecture", hint="one architecture a line")
    return archs


def chosen_space(space: str | None, archs: Sequence[Arch] = ()) -> str:
    """The space to set up: the one asked for, else the first architecture's, else the default."""
    if space is not None:
        return space
    return archs[0].space.name if archs else DEFAULT_SPACE
