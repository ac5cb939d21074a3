"""Where a build finds and keeps things: the mirror, the cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

DEFAULT_MIRROR = "http://deb.debian.org/debian"


def mirror(environ: Mapping[str, str]) -> str:
    return environ.get("SEVFORK_DEBIAN_MIRROR", DEFAULT_MIRROR).rstrip("/")


def cache_directory(environ: Mapping[str, str]) -> Path:
    home = environ.get("HOME", "/")
    return Path(environ.get("XDG_CACHE_HOME") or f"{home}/.cache") / "sevfork"
