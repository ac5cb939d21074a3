"""What the README tells people to type exists."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.support import REPOSITORY
from tests.support.command_lines import unknown_options

README = (REPOSITORY / "README.md").read_text()
COMMANDS = re.findall(r"^\$ (?:sudo )?(?:\.venv/bin/)?sevfork (.+)$", README, re.MULTILINE)


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_exists(line: str) -> None:
    assert unknown_options(shlex.split(line, comments=True)) == set()


@pytest.mark.parametrize("link", re.findall(r"\]\(((?!http)[^)]+)\)", README))
def test_a_link_of_the_readme_leads_somewhere(link: str) -> None:
    assert (REPOSITORY / link).exists()


@pytest.mark.parametrize("target", re.findall(r"`make ([a-z-]+)`", README))
def test_a_make_target_of_the_readme_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
