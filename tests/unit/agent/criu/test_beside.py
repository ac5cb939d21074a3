"""Which sockets have options that a child is given again."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
import pytest

from sevfork.agent.criu import beside

pytestmark = pytest.mark.own_processes  # sockets, and this process as the workload


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def noted() -> set[int]:
    """The descriptors of sockets that are noted of this very process."""
    (process,) = msgspec.json.decode(beside.note([str(os.getpid())]))
    return {int(descriptor) for descriptor in process["sockets"]}


def test_a_listener_and_a_new_socket_are_noted(server: socket.socket) -> None:
    with socket.socket() as new:
        assert {server.fileno(), new.fileno()} <= noted()


def test_a_connection_is_not_noted_whether_it_is_open_or_over(server: socket.socket) -> None:
    with ExitStack() as opened:
        client = opened.enter_context(socket.create_connection(server.getsockname()))
        accepted = opened.enter_context(server.accept()[0])
        assert not {client.fileno(), accepted.fileno()} & noted()
        client.close()
        accepted.recv(1)
        accepted.shutdown(socket.SHUT_WR)
        until = time.monotonic() + 10
        while accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) != b"\x07":
            assert time.monotonic() < until
        assert accepted.fileno() not in noted()


@pytest.mark.parametrize("kind", ["socket:[1]", "pipe:[1]"])
def test_what_is_closed_while_it_is_looked_at_costs_nothing_else(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Seen: a MariaDB under load closed a connection just then, and the fork failed."""
    closed = os.dup(server.fileno())
    os.close(closed)
    listed = [(closed, kind), (server.fileno(), "socket:[2]")]
    monkeypatch.setattr(beside, "_descriptors", lambda _pid: iter(listed))
    assert noted() == {server.fileno()}
