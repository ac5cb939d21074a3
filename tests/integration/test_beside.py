"""What CRIU does not carry is read from one real process and given to another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sevfork.agent.criu import beside
from sevfork.errors import NotAuthentic

# Descriptors in the same order in both; only the first sets anything.
PROGRAM = """
import os, socket, sys
first = sys.argv[1] == "first"
read, write = os.pipe()
listener, datagrams = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
unix = socket.socket(socket.AF_UNIX)
listener.bind(("127.0.0.1", 0))
listener.listen()
client = socket.create_connection(listener.getsockname())
if first:
    os.fchmod(read, 0o640)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 3)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 12345)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 20)
    listener.setsockopt(socket.IPPROTO_TCP, 23, 5)
    datagrams.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 9)
    datagrams.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 777)
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def running(which: str) -> Iterator[int]:
    argv = [sys.executable, "-I", "-c", PROGRAM, which]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child.pid
        child.communicate()


def noted(pid: int) -> dict[str, Any]:
    (process,) = json.loads(beside.note([str(pid)]))
    assert isinstance(process, dict)
    return process


def test_options_owners_and_timer_slack_are_given_to_the_restored_process() -> None:
    with running("first") as parent, running("second") as child:
        with open(f"/proc/{parent}/timerslack_ns", "w") as slack:  # noqa: PTH123
            slack.write("123456")
        wanted = noted(parent)
        assert noted(child)["sockets"] != wanted["sockets"]
        beside.apply(json.dumps([{**wanted, "pid": child}]).encode(), [str(child)])
        assert noted(child) == {**wanted, "pid": child}
        assert wanted["timer_slack_ns"] == 123456


def test_connections_are_left_alone_because_a_child_has_none() -> None:
    with running("first") as parent:
        descriptors = noted(parent)["sockets"]
    assert len(descriptors) == 2, "the listener, and that for datagrams"


def test_a_process_that_has_ended_is_left_out() -> None:
    with running("first") as parent:
        pass
    assert beside.note([str(parent)]) == b"[]"


@pytest.mark.parametrize("content", [b"", b"{}", b'[{"pid": "x"}]', b"[1]"])
def test_what_is_not_well_formed_is_refused(content: bytes) -> None:
    with pytest.raises(NotAuthentic):
        beside.apply(content, [str(os.getpid())])
