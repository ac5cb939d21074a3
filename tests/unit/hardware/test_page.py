"""docs/hardware.md: its commands exist, and its versions are those that doctor compares with."""

from __future__ import annotations

import re
import shlex

import pytest

from sevfork.attest.vendor_facts import vendor_facts
from sevfork.technology import Technology
from tests.support import REPOSITORY
from tests.support.command_lines import unknown_options

PAGE = (REPOSITORY / "docs/hardware.md").read_text()
COMMANDS = re.findall(r"^[$#] sevfork (.+)$", PAGE.replace("\\\n", ""), re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_page_exists(line: str) -> None:
    assert unknown_options(shlex.split(line, comments=True)) == set()


@pytest.mark.parametrize("technology", [Technology.SEV_SNP, Technology.TDX])
def test_the_page_has_the_versions_that_doctor_asks_for(technology: Technology) -> None:
    title = {Technology.SEV_SNP: "SEV-SNP", Technology.TDX: "TDX"}[technology]
    (row,) = re.findall(rf"^\| \*\*{title} needs\*\* \|(.*)$", PAGE, re.MULTILINE)
    cells = [cell.split()[0].rstrip(":") for cell in row.split("|")[:3]]
    needs = vendor_facts().requirements_of(technology)
    assert cells == [needs[name].version for name in ("Linux", "QEMU", "libvirt")]


def test_the_page_says_plainly_that_nobody_has_run_it() -> None:
    assert "**Nobody has run sevfork on SEV-SNP or TDX yet.**" in PAGE


def test_every_source_that_the_page_names_is_in_its_list() -> None:
    text, _, sources = PAGE.partition("## Sources")
    listed = {
        name.strip()
        for names in re.findall(r"^\| ([a-z0-9, -]+) \|", sources, re.MULTILINE)
        for name in names.split(",")
    }
    named = set(re.findall(r"\[([a-z][a-z0-9-]+)\](?!\()", text))
    assert named == listed
