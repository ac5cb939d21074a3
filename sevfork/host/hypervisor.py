"""What sevfork asks of a hypervisor: Protocols and frozen data, nothing of libvirt's.

Every method may raise HypervisorUnreachable when the connection is lost, and WrongState when a
domain has gone away in between. Domains are named by UUID, which is theirs for good.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from sevfork.domain.metadata import LOOPBACK, PublishedPort
from sevfork.domain.spec import Accelerator
from sevfork.errors import WrongState


class DomainState(Enum):
    RUNNING = "running"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    SHUTTING_DOWN = "shutting down"
    CRASHED = "crashed"
    SHUT_OFF = "shut off"

    @property
    def active(self) -> bool:
        """Whether there is a guest at all; only one that is RUNNING can answer."""
        return self not in (DomainState.CRASHED, DomainState.SHUT_OFF)


@dataclass(frozen=True)
class Domain:
    """One domain as it was when asked. ``metadata_xml`` is sevfork's element, or None."""

    name: str
    uuid: str
    id: int | None
    state: DomainState
    memory_mib: int
    vcpus: int
    metadata_xml: str | None


@dataclass(frozen=True)
class Volume:
    """One storage volume: its name in the pool and its path on the libvirt host."""

    name: str
    path: str
    size_bytes: int


@dataclass(frozen=True)
class HostFacts:
    """What the libvirt host says of itself; versions as ``(major, minor, micro)``."""

    name: str
    libvirt: tuple[int, int, int]
    qemu: tuple[int, int, int]
    cpus: int
    memory_mib: int
    free_memory_mib: int


class ChannelBusy(WrongState):
    """Another command talks to this VM's agent right now."""


class ChannelClosed(WrongState):
    """The channel broke: the VM ended, or the connection to the hypervisor did."""


class PortTaken(WrongState):
    """A port of the libvirt host is in use."""

    @classmethod
    def of(cls, port: PublishedPort) -> PortTaken:
        hint = "choose another with --publish HOST:GUEST"
        where = "" if port.address == LOOPBACK else f" at {port.address}"
        return cls(f"port {port.host} of the libvirt host is taken{where}", hint=hint)


class VolumeExists(WrongState):
    """A storage volume of that name exists."""


class Channel(Protocol):
    """A byte pipe to one guest port. One reader, one writer; ``close`` from any thread."""

    def send(self, data: bytes, timeout_s: float = 30.0) -> None:
        """Send all of it; raises TimedOut when the guest does not take it, ChannelClosed."""

    def receive(self, timeout_s: float) -> bytes:
        """Bytes that arrived, b"" if none did in time; raises ChannelClosed."""

    def close(self) -> None:
        """Let the channel go, so that another may open it. Never raises, may be repeated."""


class Storage(Protocol):
    """The storage pool "sevfork" of the libvirt host."""

    def volumes(self) -> tuple[Volume, ...]: ...

    def find(self, name: str) -> Volume | None: ...

    def create(self, name: str, size_bytes: int) -> Volume:
        """A sparse raw volume of zeros; raises VolumeExists.

        The name of one that no domain's metadata speaks of yet has ``maker.tag()`` in it, so that
        it is found and deleted when its maker was killed.
        """

    def upload(self, name: str, pieces: Iterable[bytes], size_bytes: int) -> Iterator[int]:
        """Write a volume from its beginning, growing it; yields the bytes written so far."""

    def download(self, name: str, size_bytes: int) -> Iterator[bytes]:
        """The first ``size_bytes`` of a volume, in pieces."""

    def delete(self, name: str) -> None:
        """Delete it; nothing happens where there is none."""

    def path_of(self, name: str) -> str:
        """Where a volume of that name is, or will be, on the libvirt host."""

    def free_bytes(self) -> int:
        """Room that is left in the pool."""


class Hypervisor(Protocol):
    """One connection. Safe to use from several threads."""

    @property
    def uri(self) -> str: ...

    @property
    def local(self) -> bool:
        """Whether the libvirt host is this machine."""

    @property
    def storage(self) -> Storage: ...

    def facts(self) -> HostFacts: ...

    def domain_capabilities(self, accelerator: Accelerator) -> str | None:
        """libvirt's domcapabilities XML for q35, None where this cannot run at all."""

    def domains(self) -> tuple[Domain, ...]: ...

    def find(self, reference: str) -> Domain:
        """The domain with that name, UUID or id; raises WrongState."""

    def xml(self, uuid: str) -> str:
        """The domain's XML: of the running guest, if it runs."""

    def define(self, xml: str) -> Domain:
        """Define a persistent domain; raises NameTaken."""

    def start(self, uuid: str) -> None:
        """Start it; raises HostCannot where the host lacks memory, a file or a feature."""

    def destroy(self, uuid: str) -> None:
        """End it at once; nothing happens where it does not run or is not there."""

    def undefine(self, uuid: str) -> None:
        """Forget it; nothing happens where it is not there."""

    def set_metadata(self, uuid: str, element: str) -> None:
        """Replace sevfork's metadata element, in the running guest and for good."""

    def attach_device(self, uuid: str, xml: str) -> None: ...

    def detach_disk(self, uuid: str, xml: str, target: str, timeout_s: float) -> None:
        """Unplug a disk and wait until the guest has let it go; raises TimedOut."""

    def set_link(self, uuid: str, mac: str, *, up: bool) -> None:
        """Plug or unplug the cable of a running guest's interface with this MAC address."""

    def publish(self, uuid: str, port: PublishedPort) -> None:
        """Make a guest's port reachable on the libvirt host, until the guest ends.

        Raises PortTaken, HostCannot.
        """

    def open_channel(self, uuid: str) -> Channel:
        """The agent's channel; raises ChannelBusy while another holds it."""

    def close(self) -> None: ...
