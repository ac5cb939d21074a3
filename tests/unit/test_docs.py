"""The documents name files, rooms and pages that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.support import REPOSITORY

PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])
ROOTS = ("sevfork", "tests", "scripts", "firmware", "docs")
# In backquotes: a path from the root, or one from the package's root, as architecture.md has them.
NAMED = re.compile(r"`([a-z_./-]+/[a-zA-Z_./-]*)`")
PLACEHOLDER = re.compile("VERB|NAME")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def rooms() -> list[str]:
    pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    contracts = pyproject["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [room for layer in layers for room in layer.split(" | ")]


def exists(path: Path) -> bool:
    """A file, a folder, or a module without its suffix."""
    return path.exists() or path.with_suffix(".py").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_of_ours_that_a_page_names_exists(page: Path) -> None:
    named = {path for path in NAMED.findall(page.read_text()) if not PLACEHOLDER.search(path)}
    ours = {path for path in named if path.split("/")[0] in ROOTS}
    assert [path for path in ours if not exists(REPOSITORY / path)] == []
    if page.name == "architecture.md":
        inside = named - ours
        assert [path for path in inside if not exists(REPOSITORY / "sevfork" / path)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = LINK.findall(page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_picture_has_every_room() -> None:
    picture = (REPOSITORY / "docs/architecture.md").read_text().split("```")[1]
    assert [room for room in rooms() if not re.search(rf"\b{room}\b", picture)] == []


def test_the_index_has_every_page() -> None:
    index = (REPOSITORY / "docs/README.md").read_text()
    pages = {page.name for page in (REPOSITORY / "docs").glob("*.md")} - {"README.md"}
    assert [page for page in pages if f"({page})" not in index] == []


def test_every_package_says_what_it_is() -> None:
    """So that someone who has never seen the tree finds their room."""
    packages = {path.parent for path in (REPOSITORY / "sevfork").rglob("*.py")}
    silent = [
        package.name
        for package in packages
        if not (package / "__init__.py").is_file()
        or not (package / "__init__.py").read_text().startswith('"""')
    ]
    assert silent == []
