"""What the README tells people to type exists."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from sevfork.cli.main import cli
from tests.support import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
COMMANDS = re.findall(r"^\$ (?:sudo )?(?:\.venv/bin/)?sevfork (.+)$", README, re.MULTILINE)


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the words name, and what is left of them."""
    command: click.Command = cli
    while isinstance(command, click.Group) and words:
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, f"there is no 'sevfork {words[0]}'"
        command, words = found, words[1:]
    return command, words


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_exists(line: str) -> None:
    command, words = resolve(shlex.split(line, comments=True))
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known


@pytest.mark.parametrize("link", re.findall(r"\]\(((?!http)[^)]+)\)", README))
def test_a_link_of_the_readme_leads_somewhere(link: str) -> None:
    assert (REPOSITORY / link).exists()


@pytest.mark.parametrize("target", re.findall(r"`make ([a-z-]+)`", README))
def test_a_make_target_of_the_readme_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
