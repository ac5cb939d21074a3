"""Images sealed in memory."""

from __future__ import annotations

from array import array

import pytest

from tests.support.memory_device import Sealed, seal


@pytest.fixture(scope="session")
def _data() -> bytes:
    """Three chunks and a half, each four bytes another number."""
    numbers = array("I", range(1 << 18))
    assert numbers.itemsize == 4
    return bytes(numbers) * 3 + bytes(numbers)[: 1 << 19]


@pytest.fixture
def sealed(_data: bytes) -> Sealed:
    """An image of four chunks, the last one half full, on a device with room for two more."""
    return seal(_data, spare=2 << 20)
