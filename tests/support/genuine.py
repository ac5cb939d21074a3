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


def find(name: str) -> Path:
    """A file or folder of the samples; the test is skipped where it is absent."""
    given = os.environ.get("SEVFORK_VECTORS")
    roots = (Path(given),) if given else (FETCHED, BESIDE)
    for root in roots:
        if (root / name).exists():
            return root / name
    pytest.skip(f"no genuine samples '{name}' (scripts/genuine-samples fetches what it can)")


def sample(name: str) -> bytes:
    """The content of one file of the samples."""
    return find(name).read_bytes()
