"""Images sealed in memory."""

from __future__ import annotations

import pytest

from tests.support.memory_device import Sealed, seal


@pytest.fixture
def sealed() -> Sealed:
    """An image of four chunks, the last one half full, on a device with room for two more."""
    pattern = b"".join(number.to_bytes(4, "big") for number in range(1 << 18))
    return seal(pattern * 3 + pattern[: 1 << 19], spare=2 << 20)
