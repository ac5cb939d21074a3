"""What sevfork knows of a VM, as it stands in the domain's libvirt ``<metadata>``.

Any admin on any machine therefore sees the same tree. The host writes and reads it; it is for
finding one's way, never for trust: what a VM really is, its evidence says.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from sevfork.errors import WrongState
from sevfork.handshake.launch import Role
from sevfork.technology import Technology


class Phase(Enum):
    """Whether the command that makes a VM has come to its end."""

    FORMING = "forming"
    READY = "ready"
    WARM = "warm"  # holds its parent's snapshot and waits for a fork; its maker is the pool


@dataclass(frozen=True)
class Maker:
    """The process that makes a VM: ``start`` is its start time in clock ticks since ``boot``."""

    host: str
    boot: str
    pid: int
    start: int


class Transport(Enum):
    TCP = "tcp"
    UDP = "udp"


LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class PublishedPort:
    """A port of the guest, reachable at ``host`` of an IPv4 address of the libvirt host."""

    host: int
    guest: int
    address: str = LOOPBACK
    transport: Transport = Transport.TCP

    def __str__(self) -> str:
        suffix = "" if self.transport is Transport.TCP else f"/{self.transport.value}"
        return f"{self.address}:{self.host} -> {self.guest}{suffix}"


@dataclass(frozen=True)
class SnapshotVolume:
    """The volume that holds a VM's snapshot, plugged into the VM, and its serial number there."""

    name: str
    serial: str


@dataclass(frozen=True)
class Warmth:
    """What a warm child holds: the snapshot in the volume with this serial, ``held_bytes`` of it.

    Times are seconds since 1970 by the clock of the pool's machine: when it was granted the
    snapshot, when it was last brought up to date, and from when on it is too stale to be used.
    """

    serial: str
    since: int
    refreshed: int
    stale: int
    held_bytes: int


@dataclass(frozen=True)
class ProcessorState:
    """What the simulated secure processor holds for one VM: 48, 32 and 32 bytes."""

    measurement: bytes
    host_data: bytes
    report_id: bytes

    def __post_init__(self) -> None:
        if (len(self.measurement), len(self.host_data), len(self.report_id)) != (48, 32, 32):
            raise WrongState("the simulated processor's state has a field of a wrong length")


@dataclass(frozen=True)
class Metadata:
    """One VM. What only forks have is None in a VM that ``up`` made."""

    technology: Technology
    role: Role
    phase: Phase
    # The image's name, for people; what is booted is named by its digest.
    image: str
    # libvirt's name of a CPU model, or "maximum".
    cpu_model: str
    # How many forks lie between this VM and its root.
    generation: int = 0
    # The parent's libvirt UUID, kept when the parent is gone, and its name at the time of the fork.
    parent: str | None = None
    parent_name: str | None = None
    # Which fork made it (16 bytes in hex), and the number of its OFFER in it.
    fork_id: str | None = None
    index: int | None = None
    # What the image's workload listens on, in the guest.
    workload_ports: tuple[int, ...] = ()
    # What is reachable from outside.
    ports: tuple[PublishedPort, ...] = ()
    # Storage volumes that were made for this VM alone: its serial log comes first.
    volumes: tuple[str, ...] = ()
    # Who is making it, or keeps it warm; None once that is done.
    maker: Maker | None = None
    # Where its snapshot is, if it keeps one.
    snapshot: SnapshotVolume | None = None
    # Of a warm child only.
    warmth: Warmth | None = None
    # SHA-384 of the owner's public key, 48 bytes, as it stands in the launch configuration.
    owner: bytes | None = None
    # How its workload ended when it was stopped: an exit status, or less than 0 for a signal.
    ended: int | None = None
    # None on hardware, which keeps its own.
    processor: ProcessorState | None = None
