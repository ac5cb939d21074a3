"""A host that listens to all that a guest lets out, and the search in it."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from pathlib import Path

from sevfork.domain.xml import spec_from_xml
from sevfork.host import private_libvirtd
from sevfork.host.hypervisor import Channel, Hypervisor
from sevfork.wire.lines import decode_line
from tests.vm.lab import Vm

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


class Listening:
    """A host that listens to every channel, and to the network of each guest from its start."""

    def __init__(self, hypervisor: Hypervisor, dump: Path) -> None:
        self._hypervisor, self._dump = hypervisor, dump
        self.traffic: list[bytearray] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._hypervisor, name)

    def open_channel(self, uuid: str) -> Channel:
        self.traffic.append(bytearray())
        return Tap(self._hypervisor.open_channel(uuid), self.traffic[-1])

    def start(self, uuid: str) -> None:
        self._hypervisor.start(uuid)
        filter_dump = {
            "execute": "object-add",
            "arguments": {
                "qom-type": "filter-dump",
                "id": "listener",
                "netdev": "hostnet0",
                "file": str(self._dump),
            },
        }
        subprocess.run(
            ["virsh", "-c", self._hypervisor.uri, "qemu-monitor-command", uuid]
            + [json.dumps(filter_dump)],
            check=True,
            capture_output=True,
            timeout=60,
        )


def decoded(traffic: bytes) -> bytes:
    """What the base64 lines of a channel hold, beside the lines themselves."""
    frames = (decode_line(line) for line in traffic.split(b"\n"))
    return traffic + b"".join(frame.payload for frame in frames if frame)


def logs() -> bytes:
    """Every log that libvirt and QEMU have written."""
    state = private_libvirtd.Layout.of(os.environ).state
    return b"".join(path.read_bytes() for path in state.rglob("*.log") if path.is_file())


def consoles(hypervisor: Hypervisor, *vms: Vm) -> bytes:
    """What the guests have written to their serial consoles."""
    specs = (spec_from_xml(hypervisor.xml(vm.uuid)) for vm in vms)
    return b"".join(Path(spec.console_log).read_bytes() for spec in specs)


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


def packet_times(dump: bytes) -> list[float]:
    """Seconds since the epoch of each packet in a pcap file (24-byte header, 16-byte records)."""
    times, at = [], 24
    while at + 16 <= len(dump):
        seconds, micros, size = struct.unpack_from("<III", dump, at)
        times.append(seconds + micros / 1e6)
        at += 16 + size
    return times
