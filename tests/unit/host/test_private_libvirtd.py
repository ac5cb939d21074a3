"""Where the private libvirtd keeps what is its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sevfork.errors import InsecureRefused, UsageError
from sevfork.host import private_libvirtd

LAYOUT = private_libvirtd.Layout.of({})


def start(layout: private_libvirtd.Layout) -> None:
    private_libvirtd.ensure_running(layout, lambda _text: None)


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


@pytest.mark.parametrize("call", [private_libvirtd.stop, start])
def test_a_state_directory_that_others_may_write_to_is_neither_used_nor_written(
    call: Callable[[private_libvirtd.Layout], object],
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        victim = Path(folder) / "victim"
        victim.write_text("untouched")
        state = Path(folder) / "state"
        (state / "etc").mkdir(parents=True)
        (state / "etc" / "qemu.conf").symlink_to(victim)
        state.chmod(0o777)
        layout = private_libvirtd.Layout.of({"SEVFORK_STATE_DIR": str(state)})
        with pytest.raises(InsecureRefused, match="can be written to by others"):
            call(layout)
        assert victim.read_text() == "untouched"
        assert [each.name for each in state.iterdir()] == ["etc"]
