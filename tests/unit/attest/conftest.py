"""Makes the fakes beside the tests importable, and finds the genuine samples."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import REPOSITORY


def pytest_configure(config: pytest.Config) -> None:
    """Genuine leaf certificates have serial number 0; the package silences the same warning."""
    config.addinivalue_line("filterwarnings", "ignore:Parsed a serial number")


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of genuine samples, which is not part of the project."""
    folder = Path(os.environ.get("SEVFORK_VECTORS", REPOSITORY.parent / "shared" / "vectors"))
    if not folder.is_dir():
        pytest.skip(f"no genuine samples: '{folder}' is absent (set SEVFORK_VECTORS)")
    return folder


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The exhaustive variants run only when they are asked for."""
    if "slow" in config.option.markexpr:
        return
    skip = pytest.mark.skip(reason="exhaustive: run with -m slow")
    here = Path(__file__).parent
    for item in items:
        if item.get_closest_marker("slow") and here in item.path.parents:
            item.add_marker(skip)
