"""Which libvirt is talked to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sevfork.host.connection_choice import SESSION_URI, Endpoint
from sevfork.host.connection_choice import choose as choose_connection
from sevfork.host.private_libvirtd import Layout

LAYOUT = Layout.of({})
SYSTEM_SOCKETS = [Path("/run/libvirt/libvirt-sock"), Path("/run/libvirt/virtqemud-sock")]


def choose(
    asked: str | None = None, *, root: bool = True, answering: tuple[Path, ...] = (), **environ: Any
) -> Endpoint:
    return choose_connection(
        asked, environ, LAYOUT, root=root, answers=lambda path: path in answering
    )


def test_what_was_asked_for_comes_first() -> None:
    environ: dict[str, Any] = {"SEVFORK_CONNECT": "two:///", "LIBVIRT_DEFAULT_URI": "three:///"}
    everything = (LAYOUT.socket, *SYSTEM_SOCKETS)
    assert choose("one:///", answering=everything, **environ).uri == "one:///"
    assert choose(answering=everything, **environ).uri == "two:///"
    del environ["SEVFORK_CONNECT"]
    assert choose(answering=everything, **environ).uri == "three:///"


def test_an_empty_variable_is_no_wish() -> None:
    assert choose(root=False, SEVFORK_CONNECT="").uri == SESSION_URI


def test_a_user_gets_the_session_daemon() -> None:
    chosen = choose(root=False, answering=tuple(SYSTEM_SOCKETS), HOME="/home/u")
    assert (chosen.uri, chosen.private) == ("qemu:///session", False)
    assert chosen.pool == Path("/home/u/.local/share/sevfork/volumes")


@pytest.mark.parametrize("socket", SYSTEM_SOCKETS)
def test_root_gets_the_systems_libvirtd_if_it_answers(socket: Path) -> None:
    chosen = choose(answering=(socket,))
    assert (chosen.uri, chosen.private) == ("qemu:///system", False)


def test_root_stays_with_the_private_libvirtd_that_holds_its_vms() -> None:
    chosen = choose(answering=(LAYOUT.socket, *SYSTEM_SOCKETS))
    assert chosen.private
    assert chosen.uri == "qemu+unix:///system?socket=/run/sevfork/libvirt/libvirt-sock"


def test_root_gets_a_private_libvirtd_if_nothing_answers() -> None:
    chosen = choose()
    assert chosen.private
    assert chosen.pool == Path("/var/lib/sevfork/volumes")
