"""Where the private libvirtd keeps what is its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sevfork.errors import HypervisorUnreachable, InsecureRefused, UsageError
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
    assert "/var/lock" in covered


@pytest.fixture
def foreign() -> Iterator[private_libvirtd.Layout]:
    """A state directory that others may write to, with what they may have put there."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        state = Path(folder) / "state"
        layout = private_libvirtd.Layout.of({"SEVFORK_STATE_DIR": str(state)})
        (state / "etc").mkdir(parents=True)
        (state / "etc" / "qemu.conf").symlink_to(Path(folder) / "victim")
        layout.socket.parent.mkdir(parents=True)
        layout.libvirtd.pid_file.write_text("4194305")  # above the greatest PID that there is
        state.chmod(0o777)
        yield layout


def test_a_state_directory_that_others_may_write_to_is_not_written_to(
    foreign: private_libvirtd.Layout,
) -> None:
    with pytest.raises(InsecureRefused, match="can be written to by others"):
        private_libvirtd.ensure_running(foreign, lambda _text: None)
    assert not (foreign.state.parent / "victim").exists()
    assert not foreign.pool.exists()


def test_no_process_is_ended_that_others_may_have_named(
    foreign: private_libvirtd.Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_libvirtd, "answers", lambda _path: True)
    with pytest.raises(InsecureRefused, match="can be written to by others"):
        private_libvirtd.stop(foreign)


def test_there_is_nothing_to_end_where_nothing_answers(
    foreign: private_libvirtd.Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_libvirtd, "answers", lambda _path: False)
    assert not private_libvirtd.stop(foreign)


def test_a_libvirtd_that_is_being_killed_is_not_taken_for_one_that_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It accepts connections while it goes, and hangs up."""
    monkeypatch.setattr(private_libvirtd, "ensure_running", lambda *_: None)
    attempts = iter([HypervisorUnreachable("client socket is closed")] * 2)

    def open_it() -> str:
        for error in attempts:
            raise error
        return "a connection"

    assert private_libvirtd.connect(LAYOUT, print, open_it) == "a connection"


def test_a_libvirtd_that_stays_unreachable_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_libvirtd, "ensure_running", lambda *_: None)
    monkeypatch.setattr(private_libvirtd, "_DYING_S", 0.1)

    def open_it() -> str:
        raise HypervisorUnreachable("no libvirt")

    with pytest.raises(HypervisorUnreachable, match="no libvirt"):
        private_libvirtd.connect(LAYOUT, print, open_it)
