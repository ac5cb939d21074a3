"""Where the private libvirtd keeps what is its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from sevfork.errors import UsageError
from sevfork.host import private_libvirtd

LAYOUT = private_libvirtd.Layout.of({})


def test_the_state_directory_can_be_moved() -> None:
    layout = private_libvirtd.Layout.of({"SEVFORK_STATE_DIR": "/srv/sf"})
    assert layout.socket == Path("/srv/sf/run/libvirt/libvirt-sock")
    assert layout.pool == Path("/srv/sf/volumes")


def test_a_state_directory_too_long_for_sockets_is_refused() -> None:
    with pytest.raises(UsageError, match="too long"):
        private_libvirtd.Layout.of({"SEVFORK_STATE_DIR": "/" + "x" * 60})


def test_the_private_libvirtd_shares_none_of_the_systems_directories() -> None:
    covered = set(LAYOUT.mounts.values())
    assert covered >= {"/etc/libvirt", "/run/libvirt", "/var/lib/libvirt", "/var/cache/libvirt"}
