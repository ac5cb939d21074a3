"""The disk that a host names: one of sevfork's, and never another."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sevfork.agent import volume
from sevfork.agent.volume import find_volume
from sevfork.errors import NotAuthentic, TimedOut

SERIAL = "sf-0123456789abcdef"


@pytest.fixture
def disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A guest whose root disk is vda."""
    monkeypatch.setattr(volume, "SYS_BLOCK", tmp_path)
    plug(tmp_path, "vda", "root")
    return tmp_path


def plug(disks: Path, name: str, serial: str) -> None:
    (disks / name).mkdir()
    (disks / name / "serial").write_text(serial + "\n")


def test_a_volume_is_found_by_its_serial(disks: Path) -> None:
    plug(disks, "vdb", "sf-fedcba9876543210")
    plug(disks, "vdc", SERIAL)
    assert find_volume(SERIAL) == Path("/dev/vdc")


def test_a_volume_that_cannot_be_opened_yet_is_waited_for(
    disks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [errno.ENXIO, errno.ENXIO, errno.ENOENT]

    def early(*_: object) -> int:
        raise OSError(errors.pop(0), "not yet")

    monkeypatch.setattr(os, "open", early)
    monkeypatch.setattr(volume, "_POLL_S", 0.001)
    plug(disks, "vdc", SERIAL)
    assert find_volume(SERIAL) == Path("/dev/vdc")
    assert errors == [], "whoever opens it says what else is wrong with it"


@pytest.mark.parametrize(
    "serial", ["root", "", "sf-", SERIAL + "0", SERIAL + "\n", SERIAL.upper(), "../vda"]
)
def test_a_disk_that_is_not_sevforks_is_never_looked_for(disks: Path, serial: str) -> None:
    """Not even if it is there: a host that names the root would have it overwritten."""
    if "/" not in serial:
        plug(disks, "vdb", serial)
    with pytest.raises(NotAuthentic, match="not one of sevfork's"):
        find_volume(serial, timeout_s=0.1)


def test_a_disk_with_a_serial_that_is_no_text_is_passed_over(disks: Path) -> None:
    plug(disks, "vdb", "x")
    (disks / "vdb" / "serial").write_bytes(b"\xff\xfe\n")
    plug(disks, "vdc", SERIAL)
    assert find_volume(SERIAL) == Path("/dev/vdc")


def test_a_disk_that_is_pulled_out_while_it_is_looked_at_is_passed_over(disks: Path) -> None:
    (disks / "vdb").mkdir()
    (disks / "vdb" / "serial").symlink_to(disks / "gone")
    plug(disks, "vdc", SERIAL)
    assert find_volume(SERIAL) == Path("/dev/vdc")


def test_a_volume_that_is_never_plugged_in_ends_the_wait(disks: Path) -> None:
    with pytest.raises(TimedOut, match=SERIAL):
        find_volume(SERIAL, timeout_s=0.1)
