"""Where a build finds and keeps things: the mirror, the cache, the simulated processor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

DEFAULT_MIRROR = "http://deb.debian.org/debian"


def mirror(environ: Mapping[str, str]) -> str:
    return environ.get("SEVFORK_DEBIAN_MIRROR", DEFAULT_MIRROR).rstrip("/")


def cache_directory(environ: Mapping[str, str]) -> Path:
    home = environ.get("HOME", "/")
    return Path(environ.get("XDG_CACHE_HOME") or f"{home}/.cache") / "sevfork"


def simulator_directory(environ: Mapping[str, str]) -> Path:
    """The simulated processor whose root images are built to accept, and which runs them."""
    home = environ.get("HOME", "/")
    return Path(environ.get("XDG_DATA_HOME") or f"{home}/.local/share") / "sevfork/simulator"
