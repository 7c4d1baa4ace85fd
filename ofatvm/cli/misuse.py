"""What click refuses, as an error of ours: one line that names what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import click

from ofatvm.errors import UsageError, shorten
from ofatvm.target_text import WORD_OPTIONS, closest


def usage_error(caught: click.ClickException, words: Sequence[str]) -> UsageError:
    """The error for what click says of these words."""
    context = getattr(caught, "ctx", None)
    path = context.command_path if context else "ofatvm"
    message, meant = caught.format_message().rstrip("."), ""
    if isinstance(caught, click.NoSuchOption):
        typed = _typed(caught.option_name, words)
        message, meant = f"no option {shorten(typed)}", _meant_option(typed, context)
    elif isinstance(caught, click.exceptions.NoSuchCommand):
        message = f"no command {shorten(caught.command_name)}"
        if context is not None and isinstance(context.command, click.Group):
            meant = closest(caught.command_name, context.command.list_commands(context))
    elif isinstance(caught, click.BadParameter) and caught.param is not None:
        wrong = re.match(r"'(.*)' is not one of", caught.message)
        if wrong and isinstance(caught.param.type, click.Choice):
            meant = closest(wrong[1], map(str, caught.param.type.choices))
    return UsageError(message, hint=f"did you mean {meant}?" if meant else f"see {path} --help")


def _typed(option: str, words: Sequence[str]) -> str:
    """The option as it was typed: of `-mcpuu=x`, click tells no more than `-m`."""
    names = (word.partition("=")[0] for word in words)
    long = (name for name in names if name.startswith(option) and not name.startswith("--"))
    return option if option.startswith("--") else next(long, option)


def _meant_option(typed: str, context: click.Context | None) -> str:
    """The most similar option of the command or, with a value behind it, of a target."""
    name = typed.lstrip("-")
    if len(name) < 2:
        return ""
    known = {option.lstrip("-"): option for option in _long_options(context)}
    known |= {word: f"-{word}= behind --target" for word in WORD_OPTIONS if word not in known}
    return known.get(closest(name, known, cutoff=0.6), "")


def _long_options(context: click.Context | None) -> Iterator[str]:
    """The options of the command that have a whole word for a name."""
    if context is None:
        return
    for parameter in context.command.get_params(context):
        if isinstance(parameter, click.Option) and not parameter.hidden:
            yield from (option for option in parameter.opts if option.startswith("--"))
