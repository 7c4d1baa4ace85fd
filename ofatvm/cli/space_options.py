"""Options that several commands share: supernet, space, resolution, architectures."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from ofatvm.arch import Arch, ArchSpace
from ofatvm.cli.options import RESOLUTION
from ofatvm.errors import ArchError, MissingInputError, UsageError
from ofatvm.files import read_file
from ofatvm.spaces import OFA_SPACE, find_space, parse_arch
from ofatvm.supernet.folder import (
    DEFAULT_SUPERNET,
    SupernetFolder,
    find_supernet,
    shipped_supernets,
)

F = TypeVar("F", bound=Callable[..., Any])
MAX_ARCH_FILE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """What a command is about: a space, and where the weights of its subnets come from.

    That is a trained supernet, or a weight file, or with neither of them a seed.
    """

    space: ArchSpace
    supernet: SupernetFolder | None = None
    weights: Path | None = None

    def of(self, archs: Sequence[Arch]) -> Source:
        """The source for some architectures, whose space is that of the first, if there is one."""
        if not archs or archs[0].space.name == self.space.name:
            return self
        space = find_space(archs[0].space.name)
        return Source(space, None if self.weights else _default_supernet(space), self.weights)


def find_source(supernet: str | None, space: str | None, weights: Path | None = None) -> Source:
    """What --supernet, --space and --weights mean together; UsageError if they disagree.

    Without any of them it is the supernet that ships with ofatvm, which is also what --space means
    by its space; where none ships, it is OFA's own space, untrained.
    """
    if supernet is not None:
        if weights is not None:
            raise UsageError(
                "--supernet and --weights exclude each other: a supernet has its weights",
                hint="give one of them",
            )
        folder = find_supernet(supernet)
        if space is not None and find_space(space).name != folder.space.name:
            raise UsageError(
                f"--space {space} is not the space of the supernet {folder.name}, which is "
                f"{folder.space.name}",
                hint="leave --space out",
            )
        return Source(folder.space, folder)
    if weights is not None:
        return Source(find_space(space or OFA_SPACE), weights=weights)
    if space is not None:
        found = find_space(space)
        return Source(found, _default_supernet(found))
    shipped = _default_supernet()
    return Source(find_space(OFA_SPACE) if shipped is None else shipped.space, shipped)


def _default_supernet(space: ArchSpace | None = None) -> SupernetFolder | None:
    """The supernet that ships with ofatvm, if there is one, and it is of `space`."""
    if DEFAULT_SUPERNET not in shipped_supernets():
        return None
    folder = find_supernet(DEFAULT_SUPERNET)
    return folder if space is None or space.name == folder.space.name else None


def space_options(body: F) -> F:
    """--supernet, --space and --resolution."""
    for option in reversed(
        (
            click.option(
                "--supernet",
                "supernet_name",
                help=f"Trained supernet, by name or folder.  [default: {DEFAULT_SUPERNET}, "
                "unless --space or --weights say otherwise]",
            ),
            click.option(
                "--space",
                "space_name",
                help="Search space, by name or code, such as mbv3w1.0.  [default: the "
                "architectures', or the supernet's]",
            ),
            click.option(
                "--resolution",
                type=RESOLUTION,
                help="Input height and width. [default: the space's largest]",
            ),
        )
    ):
        body = option(body)
    return body


def read_source(
    words: tuple[str, ...],
    file: Path | None,
    supernet: str | None,
    space: str | None,
    resolution: int | None,
    weights: Path | None = None,
) -> tuple[Source, list[Arch]]:
    """What a command is about, by its options and by the architectures it is given.

    Where no option says the space, an encoded string says its own; JSON is of OFA's.
    """
    source = find_source(supernet, space, weights)
    said = None if supernet is None and space is None else source.space.name
    archs = read_archs(words, file, said, resolution)
    return source.of(archs), archs


def read_archs(
    words: tuple[str, ...],
    file: Path | None,
    space: str | None,
    resolution: int | None,
) -> list[Arch]:
    """Architectures given as words and as lines of a file, in order; ArchError names the line.

    Each is our encoded string or OFA's JSON. Empty lines and lines that start with # are skipped,
    but a file must hold one at least. One word that names a file stands for that file. Without a
    `space` a string says its own and JSON is of OFA's; `resolution` replaces theirs.
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
    try:
        text = read_file(file, MAX_ARCH_FILE_BYTES).decode("utf-8-sig")
        lines = io.StringIO(text, newline=None).read().split("\n")
    except UnicodeDecodeError:
        raise ArchError(f"{file} is not UTF-8 text", hint="one architecture a line") from None
    except OSError as error:
        raise ArchError(
            f"{file} cannot be read: {error.strerror}", hint="give a text, one architecture a line"
        ) from None
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
