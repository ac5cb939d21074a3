"""Where the simulated secure processor keeps its keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def simulator_directory(environ: Mapping[str, str]) -> Path:
    """The simulated processor whose root images are built to accept, and which runs them."""
    home = environ.get("HOME", "/")
    return Path(environ.get("XDG_DATA_HOME") or f"{home}/.local/share") / "sevfork/simulator"
