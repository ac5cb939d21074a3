"""Genuine evidence of public projects, which is never copied into this one.

``scripts/genuine-samples`` fetches it, by the commits and hashes in
``tests/vectors/genuine.toml``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import REPOSITORY

FETCHED = REPOSITORY / "build/genuine-samples"
# For a machine that has no way to the samples' repositories.
BESIDE = REPOSITORY.parent / "shared/vectors"


def folder() -> Path:
    """Where the samples are; the test is skipped where there are none."""
    named = os.environ.get("SEVFORK_VECTORS")
    path = Path(named) if named else next(filter(Path.is_dir, (FETCHED, BESIDE)), FETCHED)
    if not path.is_dir():
        pytest.skip(f"no genuine samples in '{path}' (scripts/genuine-samples fetches them)")
    return path


def sample(name: str) -> bytes:
    """One file of the samples."""
    path = folder() / name
    if not path.is_file():
        pytest.skip(f"no genuine sample '{name}' (scripts/genuine-samples fetches them)")
    return path.read_bytes()
