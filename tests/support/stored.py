"""What a file takes."""

from __future__ import annotations

from pathlib import Path

from sevfork.agent.container.holes import data_ranges


def stored_bytes(path: Path) -> int:
    """Its content that is no hole. ``st_blocks`` has blocks of ext4's own in it, now and then."""
    with path.open("rb") as file:
        return sum(part.size for part in data_ranges(file.fileno(), path.stat().st_size))
