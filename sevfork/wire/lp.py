"""LP(x): a 4-byte big-endian length followed by x, the framing of everything that is hashed."""

from __future__ import annotations


def lp(*parts: bytes) -> bytes:
    """The concatenation of LP(part) for each part, in order."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
