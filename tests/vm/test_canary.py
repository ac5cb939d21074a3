"""A secret in the workload's memory is found nowhere in what leaves the guest.

The same search finds it in the simulated guest's RAM, which is not encrypted: so it can fail.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import cast

from sevfork.domain.xml import spec_from_xml
from sevfork.host import private_libvirtd
from sevfork.host.hypervisor import Channel, Hypervisor
from sevfork.lifecycle.fork import ForkRequest, plan_fork
from sevfork.lifecycle.fork.capture import captured
from sevfork.lifecycle.fork.child import make_child
from sevfork.lifecycle.undo import Undo
from sevfork.wire.lines import decode_line
from tests.support.jobs import job_on
from tests.vm.lab import Lab, Vm

PIECE_BYTES = 24
# A leak of one page or more holds a whole piece, however it is aligned.
STRIDE_BYTES = 2048


class Tap:
    """A channel that keeps a copy of everything that passes."""

    def __init__(self, channel: Channel, log: bytearray) -> None:
        self._channel, self._log = channel, log

    def send(self, data: bytes, timeout_s: float = 30.0) -> None:
        self._log += data
        self._channel.send(data, timeout_s)

    def receive(self, timeout_s: float) -> bytes:
        data = self._channel.receive(timeout_s)
        self._log += data
        return data

    def close(self) -> None:
        self._channel.close()


class Tapped:
    """A hypervisor whose channels are all listened to."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self.traffic: list[bytearray] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._hypervisor, name)

    def open_channel(self, uuid: str) -> Channel:
        self.traffic.append(bytearray())
        return Tap(self._hypervisor.open_channel(uuid), self.traffic[-1])


def decoded(traffic: bytes) -> bytes:
    """What the base64 lines of a channel hold, beside the lines themselves."""
    frames = (decode_line(line) for line in traffic.split(b"\n"))
    return traffic + b"".join(frame.payload for frame in frames if frame)


def logs() -> bytes:
    """Every log that libvirt and QEMU have written."""
    state = private_libvirtd.Layout.of(os.environ).state
    return b"".join(path.read_bytes() for path in state.rglob("*.log") if path.is_file())


def found_in(secret: bytes, haystack: bytes) -> int:
    """How many pieces of the secret are there."""
    pieces = (
        secret[at : at + PIECE_BYTES] for at in range(0, len(secret) - PIECE_BYTES, STRIDE_BYTES)
    )
    return sum(piece in haystack for piece in pieces)


def memory_of(hypervisor: Hypervisor, vm: Vm, directory: Path) -> bytes:
    path = directory / "memory"
    dump = ["virsh", "-c", hypervisor.uri, "dump", "--memory-only", "--live", vm.uuid, str(path)]
    subprocess.run(dump, check=True, capture_output=True, timeout=200)
    return path.read_bytes()


def test_a_secret_leaves_the_guest_nowhere(
    lab: Lab, hypervisor: Hypervisor, tmp_path: Path
) -> None:
    parent = lab.up("canary")
    tapped = Tapped(hypervisor)
    plan = plan_fork(hypervisor, ForkRequest(parent.name))
    job = job_on(cast("Hypervisor", tapped), seconds=300)
    with Undo() as undo, captured(job, plan) as capture:
        sealed = Path(capture.volume.path).read_bytes()[: capture.sealed_bytes + 4096]
        made = make_child(job, capture, 0, undo)
    consoles = [
        Path(spec_from_xml(hypervisor.xml(uuid)).console_log).read_bytes()
        for uuid in (parent.uuid, made.uuid)
    ]
    left_the_guest = {
        "the sealed volume": sealed,
        "the control channels": b"".join(decoded(bytes(each)) for each in tapped.traffic),
        "the serial consoles": b"".join(consoles),
        "libvirt's and QEMU's logs": logs(),
    }
    memory = memory_of(hypervisor, parent, tmp_path)
    child = Vm(made.name, made.uuid, ("127.0.0.1", made.ports[0].host))

    # Only now does the test learn what to look for.
    _, secret = child.get("/reveal")
    assert len(secret) == 2**20
    assert parent.get("/digest")[1] == hashlib.sha256(secret).hexdigest().encode()

    assert found_in(secret, memory) > 500, "the search does not find what is there"
    for place, data in left_the_guest.items():
        assert len(data) > 100, f"nothing was collected of {place}"
        assert found_in(secret, data) == 0, f"the secret is in {place}"
    lab.remove(parent, child)
