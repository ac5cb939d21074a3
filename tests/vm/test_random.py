"""Siblings are not twins where programs draw random numbers: their TLS servers never repeat."""

from __future__ import annotations

import json
import socket
import ssl
import struct
from dataclasses import dataclass
from typing import Any

import pytest

from tests.vm.lab import Lab, Vm

KEY_SHARE = 51
ROUNDS = 3


@dataclass(frozen=True)
class Hello:
    """What a server drew for one connection, and what it said behind the handshake."""

    random: bytes
    key_share: bytes
    said: dict[str, Any]


def connect(vm: Vm) -> Hello:
    """A handshake done by hand, because a library shows nobody its peer's ServerHello."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    received, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client, heard = context.wrap_bio(received, outgoing), b""
    with socket.create_connection(vm.address, timeout=60) as connection:
        while True:
            try:
                text = client.read(4096)
                break
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                data = connection.recv(65536)
                heard += data
                received.write(data)
    random, key_share = server_hello(heard)
    return Hello(random, key_share, json.loads(text))


def server_hello(heard: bytes) -> tuple[bytes, bytes]:
    """Its random value and its key share (RFC 8446, 4.1.3 and 4.2.8)."""
    assert (heard[0], heard[5]) == (22, 2), "no ServerHello"
    body = heard[9:]
    random, position = body[2:34], 35 + body[34] + 3
    end = position + 2 + struct.unpack_from(">H", body, position)[0]
    position += 2
    while position < end:
        kind, size = struct.unpack_from(">HH", body, position)
        if kind == KEY_SHARE:
            return random, body[position + 8 : position + 4 + size]
        position += 4 + size
    raise AssertionError("the server sent no key share: not TLS 1.3")


@dataclass(frozen=True)
class Family:
    """What parent and children drew, each from the same seeded state on."""

    parent: list[Hello]
    children: list[list[Hello]]


@pytest.fixture(scope="module")
def family(lab: Lab) -> Family:
    parent = lab.up("tls")
    connect(parent)  # its generators are seeded before the fork
    _, children = lab.fork(parent, "-n", "2")
    drawn = [[connect(vm) for _ in range(ROUNDS)] for vm in (parent, *children)]
    lab.remove(parent, *children)
    return Family(drawn[0], drawn[1:])


def test_no_two_servers_draw_the_same(family: Family) -> None:
    hellos = [hello for drawn in (family.parent, *family.children) for hello in drawn]
    for what in (
        [hello.random for hello in hellos],
        [hello.key_share for hello in hellos],
        [hello.said["random"] for hello in hellos],
    ):
        assert len(set(what)) == len(hellos)


def test_programs_see_their_true_pid(family: Family) -> None:
    pids = {hello.said["pid"] for drawn in (family.parent, *family.children) for hello in drawn}
    assert len(pids) == 1
    assert 0 < pids.pop() < 100


def test_pages_marked_wipe_on_fork_are_zero_in_children_only(family: Family) -> None:
    assert all(hello.said["page_kept"] for hello in family.parent)
    assert all(hello.said["page_wiped"] for drawn in family.children for hello in drawn)
