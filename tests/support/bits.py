"""Evidence with a bit that somebody has flipped."""

from __future__ import annotations

import random


def a_bit_of_every_byte(size: int) -> list[int]:
    """Numbers of bits, one in each of ``size`` bytes: no field is left out, as by a sample of all.

    The same in every run.
    """
    chance = random.Random(size)  # noqa: S311  # a test's choice, not a secret
    return [8 * byte + chance.randrange(8) for byte in range(size)]


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
