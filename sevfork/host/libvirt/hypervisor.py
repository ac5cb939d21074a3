"""``hypervisor.Hypervisor`` on one libvirt connection.

libvirt-python has no types: nothing of its objects leaves this package.
"""

from __future__ import annotations

import logging
from typing import Any

import libvirt
import libvirt_qemu

from sevfork.closing import Closing
from sevfork.deadline import Deadline
from sevfork.domain import xml as domain_xml
from sevfork.domain.disks import has_target
from sevfork.domain.elements import parse
from sevfork.domain.metadata import PublishedPort
from sevfork.domain.spec import Accelerator
from sevfork.errors import HostCannot, HypervisorUnreachable, NameTaken, SevforkError, WrongState
from sevfork.host import hypervisor as hv
from sevfork.host.aside import within
from sevfork.host.channel import StreamChannel
from sevfork.host.libvirt.connection import close_connection, is_local, open_connection
from sevfork.host.libvirt.domains import lookups, set_metadata, snapshot
from sevfork.host.libvirt.errors import asks, first_line, ignoring, translate
from sevfork.host.libvirt.storage import LibvirtStorage, default_pool_path
from sevfork.host.libvirt.stream import LibvirtStream

log = logging.getLogger(__name__)

DESTROY_TIMEOUT_S = 30.0
_DETACH_POLL_S = 0.1
# What libvirt says of a channel that is held: by another stream; by a lock file whose process
# lives, as that of a libvirtd that was killed may for a moment.
_CHANNEL_HELD = ("Active channel stream exists", "is locked by lock file")


def connect(uri: str, *, pool_path: str | None = None) -> LibvirtHypervisor:
    """Connect, or raise HypervisorUnreachable.

    ``pool_path`` is where the storage pool is made if there is none; None leaves libvirt's default.
    """
    return LibvirtHypervisor(open_connection(uri), uri, pool_path)


class LibvirtHypervisor(Closing):
    """``hypervisor.Hypervisor`` on one libvirt connection."""

    def __init__(self, connection: Any, uri: str, pool_path: str | None) -> None:
        self._connection = connection
        self._uri = uri
        self.storage = LibvirtStorage(connection, pool_path or default_pool_path(uri))

    @property
    def uri(self) -> str:
        return self._uri

    @property
    def local(self) -> bool:
        return is_local(self._uri)

    @asks
    def facts(self) -> hv.HostFacts:
        memory = self._connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
        # What the kernel can give up again counts as free: there is no MemAvailable here.
        free_kib = sum(memory.get(each, 0) for each in ("free", "buffers", "cached"))
        return hv.HostFacts(
            name=self._connection.getHostname(),
            libvirt=_version(self._connection.getLibVersion()),
            qemu=_version(self._connection.getVersion()),
            cpus=self._connection.getInfo()[2],
            memory_mib=memory.get("total", 0) // 1024,
            free_memory_mib=free_kib // 1024,
        )

    @asks
    def domain_capabilities(self, accelerator: Accelerator) -> str | None:
        kind, machine = accelerator.value, "q35"
        try:
            return str(self._connection.getDomainCapabilities(None, "x86_64", machine, kind, 0))
        except libvirt.libvirtError as exc:
            if isinstance(translate(exc), HypervisorUnreachable):
                raise
            log.debug("no domain capabilities for '%s': %s", kind, exc)
            return None

    @asks
    def domains(self) -> tuple[hv.Domain, ...]:
        found = (snapshot(each) for each in self._connection.listAllDomains(0))
        return tuple(each for each in found if each is not None)

    @asks
    def find(self, reference: str) -> hv.Domain:
        for found in lookups(self._connection, reference):
            domain = found and snapshot(found)
            if domain:
                return domain
        raise WrongState(f"there is no VM '{reference}'", hint="see 'sevfork ls'")

    @asks
    def xml(self, uuid: str) -> str:
        return str(self._domain(uuid).XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE))

    @asks
    def define(self, xml: str) -> hv.Domain:
        flags = libvirt.VIR_DOMAIN_DEFINE_VALIDATE
        try:
            found = snapshot(self._connection.defineXMLFlags(xml, flags))
        except libvirt.libvirtError as exc:
            if "already exists with uuid" not in str(exc):
                raise
            name, hint = parse(xml).findtext("name"), "choose another name, or --replace"
            raise NameTaken(f"'{name}' exists already", hint=hint) from exc
        if found is None:
            raise WrongState("the VM went away while it was made")
        return found

    @asks
    def start(self, uuid: str) -> None:
        try:
            self._domain(uuid).create()
        except libvirt.libvirtError as exc:
            if type(translate(exc)) is not SevforkError:
                raise
            # Whatever QEMU could not do on this host: a missing file, a feature, a port.
            raise HostCannot(f"the VM does not start: {first_line(exc)}") from exc

    @asks
    def destroy(self, uuid: str) -> None:
        """Raises HostCannot where it does not end: not even SIGKILL ends a QEMU, or the daemon that
        writes its log, while they wait for storage that has gone."""
        try:
            with ignoring(libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
                within(DESTROY_TIMEOUT_S, self._domain(uuid).destroy, "destroy")
        except TimeoutError as exc:
            raise HostCannot(
                f"the VM does not end; {self.storage.named()} may not answer",
                hint="look at its server; the next command removes what is left",
            ) from exc

    @asks
    def undefine(self, uuid: str) -> None:
        with ignoring(libvirt.VIR_ERR_NO_DOMAIN):
            self._domain(uuid).undefine()

    @asks
    def set_metadata(self, uuid: str, element: str) -> None:
        set_metadata(self._domain(uuid), element)

    @asks
    def attach_device(self, uuid: str, xml: str) -> None:
        self._domain(uuid).attachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    @asks
    def detach_disk(self, uuid: str, xml: str, target: str, timeout_s: float) -> None:
        deadline, domain = Deadline.after(timeout_s), self._domain(uuid)
        domain.detachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        # libvirt returns after 5 s whether the guest has let go or not.
        for _ in deadline.poll(_DETACH_POLL_S, f"the guest did not let the disk '{target}' go"):
            if not has_target(domain.XMLDesc(0), target):
                return

    @asks
    def set_link(self, uuid: str, mac: str, *, up: bool) -> None:
        domain = self._domain(uuid)
        interface = domain_xml.link_xml(domain.XMLDesc(0), mac, link_up=up)
        domain.updateDeviceFlags(interface, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    @asks
    def publish(self, uuid: str, port: PublishedPort) -> None:
        # hostnet0 is libvirt's name for the netdev of the first interface.
        at = f"{port.transport.value}:{port.address}:{port.host:d}"
        forward = f"hostfwd_add hostnet0 {at}-:{port.guest:d}"
        hmp = libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
        answer = libvirt_qemu.qemuMonitorCommand(self._domain(uuid), forward, hmp)
        if "could not set up host forwarding" in answer.lower():
            raise hv.PortTaken.of(port)
        if answer.strip():
            raise HostCannot(f"cannot publish port {port.guest}: {answer.strip()}")

    @asks
    def open_channel(self, uuid: str) -> hv.Channel:
        connection = open_connection(self._uri)
        try:
            stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
            connection.lookupByUUIDString(uuid).openChannel(domain_xml.CHANNEL_NAME, stream, 0)
        except libvirt.libvirtError as exc:
            close_connection(connection)
            if not any(words in str(exc) for words in _CHANNEL_HELD):
                raise
            hint = "wait for it to end"
            raise hv.ChannelBusy("another command talks to the VM's agent", hint=hint) from exc
        return StreamChannel(LibvirtStream(connection, stream))

    def close(self) -> None:
        close_connection(self._connection)

    def _domain(self, uuid: str) -> Any:
        return self._connection.lookupByUUIDString(uuid)


def _version(number: int) -> tuple[int, int, int]:
    return number // 1_000_000, number // 1000 % 1000, number % 1000
