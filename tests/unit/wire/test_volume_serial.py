"""The serial number of a sealed volume."""

from __future__ import annotations

import pytest

from sevfork.domain.disks import SERIAL_LIMIT
from sevfork.domain.xml import ROOT_SERIAL
from sevfork.wire.volume_serial import is_serial, new_serial


def test_a_new_serial_is_one_that_the_guest_looks_for() -> None:
    serial = new_serial()
    assert is_serial(serial)
    assert len(serial) <= SERIAL_LIMIT
    assert serial != new_serial()


@pytest.mark.parametrize("other", [ROOT_SERIAL, "", "sf-", "sf-0123456789abcdef\n"])
def test_no_other_disk_is_looked_for(other: str) -> None:
    assert not is_serial(other)
