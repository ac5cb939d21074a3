"""A hypervisor in memory that behaves: it keeps state, and refuses what libvirt refuses."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace

from sevfork.domain.elements import parse, to_text
from sevfork.domain.metadata import PublishedPort
from sevfork.domain.metadata_xml import NAMESPACE
from sevfork.domain.spec import Accelerator
from sevfork.errors import HostCannot, NameTaken, TimedOut, WrongState
from sevfork.host.hypervisor import (
    Channel,
    Domain,
    DomainState,
    HostFacts,
    PortTaken,
    Volume,
    VolumeExists,
)

POOL = "/pool"
TCG_CAPABILITIES = "<domainCapabilities><features/></domainCapabilities>"
SNP_CAPABILITIES = """<domainCapabilities>
  <os supported='yes'><loader supported='yes'>
    <value>/usr/share/ovmf/OVMF.amdsev.fd</value>
  </loader></os>
  <features>
    <sev supported='yes'><cbitpos>51</cbitpos><reducedPhysBits>1</reducedPhysBits></sev>
    <launchSecurity supported='yes'>
      <enum name='sectype'><value>sev-snp</value></enum>
    </launchSecurity>
  </features>
</domainCapabilities>"""


class FakeStorage:
    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}

    def volumes(self) -> tuple[Volume, ...]:
        files = sorted(self.files.copy().items())
        return tuple(Volume(name, f"{POOL}/{name}", len(data)) for name, data in files)

    def find(self, name: str) -> Volume | None:
        return next((each for each in self.volumes() if each.name == name), None)

    def create(self, name: str, size_bytes: int) -> Volume:
        if name in self.files:
            raise VolumeExists(f"the storage volume '{name}' exists")
        self.files[name] = bytearray(size_bytes)
        return Volume(name, f"{POOL}/{name}", size_bytes)

    def upload(self, name: str, pieces: Iterable[bytes], size_bytes: int) -> Iterator[int]:
        written = 0
        for piece in pieces:
            self.files[name][written : written + len(piece)] = piece
            written += len(piece)
            yield written

    def download(self, name: str, size_bytes: int) -> Iterator[bytes]:
        yield bytes(self.files[name][:size_bytes])

    def delete(self, name: str) -> None:
        self.files.pop(name, None)

    def path_of(self, name: str) -> str:
        return f"{POOL}/{name}"

    def free_bytes(self) -> int:
        return 2**40


class FakeHypervisor:
    """``kvm_console`` is what a guest under KVM writes to its serial log; None: KVM fails."""

    uri = "fake:///"
    local = False

    def __init__(self, *, kvm_console: bytes | None = None, free_memory_mib: int = 8192) -> None:
        self.storage = FakeStorage()
        self.defined: dict[str, tuple[str, DomainState]] = {}
        self.published: dict[int, str] = {}
        self._unplugging: list[tuple[str, str]] = []
        self.starts = 0
        self._kvm_console = kvm_console
        self._free_memory_mib = free_memory_mib
        self._ids = itertools.count(1)

    def facts(self) -> HostFacts:
        return HostFacts("fake", (9, 0, 0), (7, 2, 0), 2, 16384, self._free_memory_mib)

    def domain_capabilities(self, accelerator: Accelerator) -> str | None:
        return TCG_CAPABILITIES

    def domains(self) -> tuple[Domain, ...]:
        defined = list(self.defined.items())  # another thread may remove one meanwhile
        return tuple(_domain(uuid, xml, state) for uuid, (xml, state) in defined)

    def find(self, reference: str) -> Domain:
        for domain in self.domains():
            if reference in (domain.name, domain.uuid):
                return domain
        raise WrongState(f"there is no VM '{reference}'")

    def xml(self, uuid: str) -> str:
        self._require(uuid)
        return self.defined[uuid][0]

    def define(self, xml: str) -> Domain:
        name, uuid = (parse(xml).findtext(tag) or "" for tag in ("name", "uuid"))
        if any(domain.name == name and domain.uuid != uuid for domain in self.domains()):
            raise NameTaken(f"'{name}' exists already")
        self.defined[uuid] = (xml, DomainState.SHUT_OFF)
        return _domain(uuid, *self.defined[uuid])

    def start(self, uuid: str) -> None:
        self.starts += 1
        xml = self.xml(uuid)
        domain = parse(xml)
        if domain.get("type") == "kvm":
            if self._kvm_console is None:
                raise HostCannot("the VM does not start: KVM is broken")
            log = domain.find("devices/serial/source").get("path")  # type: ignore[union-attr]
            self.storage.files[str(log).rpartition("/")[2]] = bytearray(self._kvm_console)
        self.defined[uuid] = (xml, DomainState.RUNNING)

    def end(self, uuid: str) -> None:
        """The guest powers itself off."""
        self.defined[uuid] = (self.xml(uuid), DomainState.SHUT_OFF)

    def state_of(self, uuid: str) -> DomainState:
        return self.defined[uuid][1] if uuid in self.defined else DomainState.SHUT_OFF

    def pause(self, uuid: str, state: DomainState = DomainState.PAUSED) -> None:
        """As `virsh suspend` does; a guest that runs again lets go of what it was asked for."""
        self.defined[uuid] = (self.xml(uuid), state)
        if state is DomainState.RUNNING:
            for asked in [each for each in self._unplugging if each[0] == uuid]:
                self._unplugging.remove(asked)
                self._unplug(*asked)

    def destroy(self, uuid: str) -> None:
        if uuid in self.defined:
            self.end(uuid)

    def undefine(self, uuid: str) -> None:
        self.defined.pop(uuid, None)

    def set_metadata(self, uuid: str, element: str) -> None:
        domain = parse(self.xml(uuid))
        metadata = domain.find("metadata")
        assert metadata is not None
        metadata.clear()
        plain = parse(element)
        for each in plain.iter():
            each.tag = f"{{{NAMESPACE}}}{each.tag}"
        metadata.append(plain)
        self.defined[uuid] = (to_text(domain), self.defined[uuid][1])

    def attach_device(self, uuid: str, xml: str) -> None:
        domain = parse(self.xml(uuid))
        domain.find("devices").append(parse(xml))  # type: ignore[union-attr]
        self.defined[uuid] = (to_text(domain), self.defined[uuid][1])

    def detach_disk(self, uuid: str, xml: str, target: str, timeout_s: float) -> None:
        if self.state_of(uuid) is not DomainState.RUNNING:
            self._unplugging.append((uuid, target))
            raise TimedOut(f"the guest did not let the disk '{target}' go")
        self._unplug(uuid, target)

    def _unplug(self, uuid: str, target: str) -> None:
        domain = parse(self.xml(uuid))
        disk = domain.find(f"devices/disk/target[@dev='{target}']/..")
        domain.find("devices").remove(disk)  # type: ignore[union-attr,arg-type]
        self.defined[uuid] = (to_text(domain), self.defined[uuid][1])

    def set_link(self, uuid: str, mac: str, *, up: bool) -> None:
        self._require(uuid)

    def publish(self, uuid: str, port: PublishedPort) -> None:
        self._require(uuid)
        if port.host in self.published:
            raise PortTaken.of(port)
        self.published[port.host] = uuid

    def open_channel(self, uuid: str) -> Channel:
        raise WrongState("no agent lives in a fake VM")

    def close(self) -> None:
        pass

    def add_foreign(self, name: str) -> Domain:
        """A domain that sevfork did not make."""
        uuid = f"00000000-0000-4000-8000-{next(self._ids):012d}"
        xml = f"<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid></domain>"
        self.defined[uuid] = (xml, DomainState.SHUT_OFF)
        return _domain(uuid, *self.defined[uuid])

    def _require(self, uuid: str) -> None:
        if uuid not in self.defined:
            raise WrongState("libvirt: Domain not found")


def _domain(uuid: str, xml: str, state: DomainState) -> Domain:
    domain = parse(xml)
    found = domain.find(f"metadata/{{{NAMESPACE}}}vm")
    return replace(
        Domain(domain.findtext("name") or "", uuid, None, state, 1024, 1, None),
        metadata_xml=None if found is None else to_text(found),
    )
