"""A container image ``FROM scratch``, made here by hand: booted, and forked under a connection."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.container_images import Entry, directory, layout
from tests.vm.lab import IMAGES, Lab, Vm

BUSYBOX = Path("/bin/busybox")
CAPABILITY = b"\x01\x00\x00\x02\x00\x04\x00\x00" + bytes(12)  # cap_net_bind_service, effective
# There is no /bin/sh, no /etc and no /dev in the image.
LOOK = b"""#!/bin/busybox sh
echo "Content-Type: text/plain"
echo
busybox id -u
busybox id -g
busybox stat -c %a /bin/set-uid
busybox stat -c %h /bin/hard
busybox test -e /www/removed && echo removed-is-here
busybox test -e /usr/lib/sevfork && echo agent-is-here
busybox touch /data/mine && echo wrote
busybox cat /run/sevfork/generation | busybox od -An -tu4 -N4
"""
# Answers when /data/go is there, which only the parent gets.
WAIT = b"""#!/bin/busybox sh
while ! busybox test -e /data/go; do busybox sleep 1; done
echo "Content-Type: text/plain"
echo
echo waited
"""
GO = b"""#!/bin/busybox sh
busybox touch /data/go
echo "Content-Type: text/plain"
echo
"""
LAYERS = (
    (
        directory("bin"),
        Entry("bin/busybox", BUSYBOX.read_bytes() if BUSYBOX.exists() else b"", 0o755),
        Entry("bin/set-uid", b"x", 0o4755),
        Entry("bin/hard", kind=b"1", link="bin/set-uid", mode=0o4755),
        Entry("bin/capable", b"x", 0o755, attributes={"security.capability": CAPABILITY}),
        directory("www"),
        directory("www/cgi-bin"),
        Entry("www/index.html", b"from scratch\n"),
        Entry("www/cgi-bin/look", LOOK, 0o755),
        Entry("www/cgi-bin/wait", WAIT, 0o755),
        Entry("www/cgi-bin/go", GO, 0o755),
        Entry("www/removed", b"x"),
    ),
    (Entry("www/.wh.removed"), directory("data", owner=(1234, 56))),
)
CONFIG = {
    "Entrypoint": ["busybox", "httpd", "-f"],
    "Cmd": ["-p", "8080", "-h", "/www"],
    "ExposedPorts": {"8080/tcp": {}},
    "User": "1234:56",
    "Env": ["PATH=/bin"],
    "WorkingDir": "/www",
    "Volumes": {"/data": {}},
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    return layout(tmp_path_factory.mktemp("oci") / "scratch", LAYERS, CONFIG, zstd=True)


@pytest.fixture(scope="module")
def image(lab: Lab, reference: str) -> Path:
    output = IMAGES / "oci-scratch"
    lab.run("guest", "build", "-o", str(output), "--oci", reference, timeout_s=900)
    lab.built.add(output.name)
    return output


@pytest.fixture(scope="module")
def parent(lab: Lab, image: Path) -> Iterator[Vm]:
    vm = lab.up(image.name)
    yield vm
    lab.remove(vm)


def look(vm: Vm) -> list[str]:
    status, body = vm.get("/cgi-bin/look")
    assert status == 200
    return [line.strip() for line in body.decode().splitlines()]


def test_what_the_image_says_holds_in_the_guest(parent: Vm) -> None:
    """A user that no passwd knows, set-uid and hard links kept, a whiteout, and no agent."""
    assert parent.get("/") == (200, b"from scratch\n")
    assert parent.get("/removed")[0] == 404
    assert look(parent) == ["1234", "56", "4755", "2", "wrote", "0"]


def test_a_child_answers_and_the_parents_connection_lives(lab: Lab, parent: Vm) -> None:
    with socket.create_connection(parent.address, timeout=120) as connection:
        connection.sendall(b"GET /cgi-bin/wait HTTP/1.0\r\n\r\n")
        _, (child,) = lab.fork(parent)
        assert parent.get("/cgi-bin/go")[0] == 200
        assert b"waited" in connection.makefile("rb").read()
    assert child.get("/") == (200, b"from scratch\n")
    assert look(child) == ["1234", "56", "4755", "2", "wrote", "1"]
    assert look(parent)[-1] == "0"
    lab.remove(child)


def test_the_same_digest_gives_the_same_launch_digest(
    lab: Lab, image: Path, reference: str, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    lab.run("guest", "build", "-o", str(again), "--oci", reference, timeout_s=900)
    first, second = (json.loads((at / "manifest.json").read_bytes()) for at in (image, again))
    assert first["launch_digests"] == second["launch_digests"]
    assert first["oci"]["digest"] == second["oci"]["digest"]
    assert CAPABILITY in (again / "root.img").read_bytes()
