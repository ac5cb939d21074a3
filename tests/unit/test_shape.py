"""The size of things: files that can be read in one sitting, functions that fit a screen."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support import REPOSITORY

FILE_LINES = 400
FUNCTION_LINES = 40
SOURCES = sorted((REPOSITORY / "sevfork").rglob("*.py"))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and lines from ``def`` on: decorators (the options of a command) do not count."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def test_there_is_something_to_measure() -> None:
    assert len(SOURCES) > 100


def test_no_file_is_too_long() -> None:
    sizes = {str(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert {path: lines for path, lines in sizes.items() if lines > FILE_LINES} == {}


def test_no_function_is_too_long() -> None:
    sizes = {(str(path), name): lines for path in SOURCES for name, lines in functions(path)}
    assert {place: lines for place, lines in sizes.items() if lines > FUNCTION_LINES} == {}
