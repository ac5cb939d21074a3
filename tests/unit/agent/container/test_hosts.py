"""The host name in the container's ``/etc/hosts``, whatever somebody put there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sevfork.agent.container.hosts import name_host, naming
from sevfork.errors import RefusedByGuest

DEBIAN = b"127.0.0.1 localhost\n"
PARENT, CHILD = "sevfork-0a1b2c3d", "sevfork-4e5f6071"


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    file = tmp_path / "etc" / "hosts"
    file.write_bytes(DEBIAN)
    return file


def test_the_name_resolves_and_loopback_has_its_second_address(tmp_path: Path, hosts: Path) -> None:
    name_host(tmp_path, PARENT)
    assert hosts.read_text() == (
        f"127.0.0.1 localhost\n127.0.1.1 {PARENT}\n::1 localhost ip6-localhost ip6-loopback\n"
    )


def test_a_childs_name_takes_the_place_of_its_parents(tmp_path: Path, hosts: Path) -> None:
    name_host(tmp_path, PARENT)
    hosts.write_text(hosts.read_text() + "10.0.2.2 gateway\n")
    size = hosts.stat().st_size
    name_host(tmp_path, CHILD)
    assert f"127.0.1.1 {CHILD}\n" in hosts.read_text()
    assert PARENT not in hosts.read_text()
    assert "gateway" in hosts.read_text()
    assert hosts.stat().st_size == size, "CRIU checks the size of a file that was open"


def test_a_second_time_changes_nothing(tmp_path: Path, hosts: Path) -> None:
    name_host(tmp_path, PARENT)
    before = hosts.stat().st_ino
    name_host(tmp_path, PARENT)
    assert hosts.stat().st_ino == before


def test_an_address_that_is_there_is_not_written_twice() -> None:
    assert naming(CHILD.encode(), b"::1 localhost").count(b"::1") == 1


def test_a_link_is_replaced_and_never_followed(tmp_path: Path, hosts: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("of the guest")
    hosts.unlink()
    hosts.symlink_to(outside)
    name_host(tmp_path, PARENT)
    assert outside.read_text() == "of the guest"
    assert PARENT in hosts.read_text()
    assert not hosts.is_symlink()


def test_a_fifo_keeps_nobody_waiting(tmp_path: Path, hosts: Path) -> None:
    hosts.unlink()
    os.mkfifo(hosts)
    name_host(tmp_path, PARENT)
    assert PARENT in hosts.read_text()


def test_a_linked_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "etc").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RefusedByGuest):
        name_host(tmp_path, PARENT)
