"""Whether a command line that a page or a script has is one that sevfork takes."""

from __future__ import annotations

from collections.abc import Sequence

import click

from sevfork.cli.main import cli


def resolve(words: Sequence[str]) -> tuple[click.Command, Sequence[str]]:
    """The command that the words name, and what is left of them."""
    command: click.Command = cli
    while isinstance(command, click.Group) and words:
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, f"there is no 'sevfork {words[0]}'"
        command, words = found, words[1:]
    return command, words


def unknown_options(words: Sequence[str]) -> set[str]:
    """The options among the words that their command does not have."""
    command, rest = resolve(words)
    known = {option for parameter in command.params for option in parameter.opts}
    return {word for word in rest if word.startswith("-")} - known
