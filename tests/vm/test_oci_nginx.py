"""An nginx as container images have it: a Debian without its packages' scripts, glibc, workers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.support.container_images import Entry, directory, layout
from tests.vm.lab import IMAGES, Lab, Vm

PACKAGES = "base-files,base-passwd,libc-bin,dash,nginx"
NGINX = b"""user web staff;
worker_processes 2;
daemon off;
pid /run/nginx.pid;
events {}
http {
    access_log off;
    server {
        listen 8080;
        root /srv;
    }
}
"""
HOSTS = (
    Entry("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv:/bin/false\n"),
    Entry("etc/group", b"root:x:0:\nstaff:x:50:web\n"),
    Entry("etc/nginx/nginx.conf", NGINX),
    directory("srv"),
    Entry("srv/index.html", b"from a container image\n"),
)
CONFIG = {
    "Cmd": ["nginx"],
    "ExposedPorts": {"8080/tcp": {}},
    "StopSignal": "SIGQUIT",
    "Healthcheck": {"Test": ["CMD-SHELL", "test -s /run/nginx.pid || exit 1"]},
}


@pytest.fixture(scope="module")
def parent(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm]:
    work = tmp_path_factory.mktemp("oci-nginx")
    debian = work / "debian.tar"
    subprocess.run(
        ["mmdebstrap", "--variant=extract", "--mode=root", "--quiet", f"--include={PACKAGES}"]
        + ["bookworm", str(debian), "deb http://deb.debian.org/debian bookworm main"],
        check=True,
        timeout=600,
    )
    reference = layout(work / "nginx", (debian.read_bytes(), HOSTS), CONFIG, others=("arm64",))
    output = IMAGES / "oci-nginx"
    built = lab.run("guest", "build", "-o", str(output), "--oci", reference, timeout_s=900)
    assert "its C library" not in built.stderr  # what lets OpenSSL notice a fork is in it
    lab.built.add(output.name)
    vm = lab.up(output.name)
    yield vm
    lab.remove(vm)


def test_nginx_of_a_container_image_is_forked(lab: Lab, parent: Vm) -> None:
    answer = (200, b"from a container image\n")
    assert parent.get("/") == answer
    _, (child,) = lab.fork(parent)
    assert child.get("/") == answer
    assert parent.get("/") == answer
    lab.remove(child)


def test_it_stops_in_good_order_by_the_images_signal(lab: Lab, parent: Vm) -> None:
    _, (child,) = lab.fork(parent)
    lab.run("stop", child.name)
    assert lab.vms()[child.name]["state"] != "running"
    lab.remove(child)
