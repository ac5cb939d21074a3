"""A storage pool that is full, or becomes so, under real guests."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from scripts.client import Result
from tests.support.small_pool import SmallPool, small_pool
from tests.vm.lab import Lab, Vm

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small pool is root's")

MIB = 2**20
# The image takes 190 MiB of it, a sealed Redis with its data 100 MiB.
POOL = "size=640m"
DATA = 32 * MIB


@dataclass(frozen=True)
class SmallHost:
    """A libvirt host with a small pool, and a parent on it."""

    pool: SmallPool
    lab: Lab
    parent: Vm

    def assert_refused(self, failed: Result) -> None:
        assert failed.returncode == 13, failed.stderr
        assert f"the storage pool at '{self.pool.layout.pool}' has " in failed.stderr
        assert failed.stdout == ""

    def assert_only_the_parent_is_left(self) -> None:
        assert self.parent.redis().strlen("bulk") == DATA
        assert list(self.lab.vms()) == [self.parent.name]
        assert self.lab.leftovers() == []

    def assert_forks(self) -> None:
        _, [child] = self.lab.fork(self.parent)
        assert child.redis().strlen("bulk") == DATA
        self.lab.remove(child)


@pytest.fixture(scope="module")
def host() -> Iterator[SmallHost]:
    with small_pool(POOL) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEVFORK_STATE_DIR", pool.environ["SEVFORK_STATE_DIR"])
        lab = Lab()
        with pool.hypervisor():
            try:
                parent = lab.up("redis")
                parent.redis().set("bulk", secrets.token_bytes(DATA))
                yield SmallHost(pool, lab, parent)
            finally:
                lab.close()


def test_a_pool_without_room_is_told_before_a_capture_begins(host: SmallHost) -> None:
    with host.pool.filled(leaving_bytes=8 * MIB):
        failed = host.lab.run("fork", host.parent.name, "--debug", check=False)
    host.assert_refused(failed)
    assert "has 8 MiB free; the capture may need" in failed.stderr
    assert "phase: copy" not in failed.stderr
    host.assert_only_the_parent_is_left()
    host.assert_forks()


def test_a_pool_that_becomes_full_during_the_capture(host: SmallHost) -> None:
    with host.lab.running("fork", host.parent.name, "--debug") as fork:
        fork.wait_for("phase: copy")
        with host.pool.filled():
            failed = fork.ended()
    host.assert_refused(failed)
    assert "the volume cannot be " in failed.stderr
    host.assert_only_the_parent_is_left()
    host.assert_forks()
