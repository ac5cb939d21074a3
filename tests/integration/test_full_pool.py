"""A storage pool that is full, or read-only: what libvirt says of it ends in our words and code."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import pytest

from sevfork.errors import HostCannot
from sevfork.host.hypervisor import Hypervisor
from tests.support.small_pool import SmallPool, small_pool

pytestmark = [
    pytest.mark.machine,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("libvirtd", path="/usr/sbin:/usr/bin"),
        reason="a private libvirtd is root's, and libvirtd has to be installed",
    ),
]

MIB = 2**20


@pytest.fixture(scope="module")
def pool() -> Iterator[SmallPool]:
    with small_pool(f"size={MIB},nr_inodes=3") as made:
        yield made


@pytest.fixture
def hypervisor(pool: SmallPool) -> Iterator[Hypervisor]:
    with pool.hypervisor() as connected:
        yield connected
        for volume in connected.storage.volumes():
            connected.storage.delete(volume.name)


def assert_told(pool: SmallPool, why: str, act: Callable[[], object]) -> None:
    with pytest.raises(HostCannot) as caught:
        act()
    assert f"the storage pool at '{pool.layout.pool}'" in caught.value.message
    assert why in caught.value.message
    assert "room" in (caught.value.hint or "")


def test_no_room_for_another_volume(pool: SmallPool, hypervisor: Hypervisor) -> None:
    storage = hypervisor.storage
    for name in ("a", "b"):
        storage.create(name, 1024 * MIB)  # sparse: what is full is the table of files
    assert_told(pool, "No space left", lambda: storage.create("c", 1024 * MIB))
    storage.delete("a")
    storage.create("c", 1024 * MIB)


def test_no_room_for_what_is_uploaded(pool: SmallPool, hypervisor: Hypervisor) -> None:
    storage, data = hypervisor.storage, [bytes(MIB)] * 3
    storage.create("a", 0)
    for pieces in (data, [bytes(3 * MIB)], [bytes(MIB + 1)], data * 20):
        size = sum(map(len, pieces))
        assert_told(pool, "took", lambda: list(storage.upload("a", pieces, size)))  # noqa: B023
    storage.create("b", 0)
    storage.delete("a")
    assert list(storage.upload("b", data[:1], MIB))[-1] == MIB


def test_a_read_only_file_system(pool: SmallPool, hypervisor: Hypervisor) -> None:
    storage = hypervisor.storage
    storage.create("a", MIB)
    pool.remount("ro")
    try:
        assert_told(pool, "Read-only", lambda: storage.create("b", MIB))
        assert_told(pool, "Read-only", lambda: list(storage.upload("a", [b"x"], 1)))
        assert_told(pool, "Read-only", lambda: storage.delete("a"))
    finally:
        pool.remount("rw")
    storage.create("b", MIB)
