"""A guest's ports on the libvirt host: what is wished for, what is had."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from sevfork.domain import metadata_xml
from sevfork.domain.metadata import LOOPBACK, PublishedPort, Transport
from sevfork.errors import HostCannot, UsageError, WrongState
from sevfork.host.hypervisor import Domain, Hypervisor, PortTaken

# Where a host port is chosen by sevfork: above the usual services, below Linux's ephemeral range.
CHOSEN_PORTS = range(20000, 32000)
_TRIES = 100


@dataclass(frozen=True)
class PortWish:
    """A guest's port to publish; ``host`` None lets sevfork choose. ``address`` is IPv4."""

    host: int | None
    guest: int
    address: str = LOOPBACK
    transport: Transport = Transport.TCP

    @classmethod
    def like(cls, port: PublishedPort, *, host: int | None) -> PortWish:
        """What is published already, once more."""
        return cls(host, port.guest, port.address, port.transport)

    def at(self, host: int) -> PublishedPort:
        return PublishedPort(host, self.guest, self.address, self.transport)


def require_free(
    hypervisor: Hypervisor, wishes: Iterable[PortWish], replaced: Iterable[Domain] = ()
) -> None:
    """Tell now what QEMU would tell when the guest has booted; raises PortTaken, UsageError.

    VMs that are replaced give their ports up. The ports of another machine cannot be looked at.
    """
    wanted = [wish.at(wish.host) for wish in wishes if wish.host]
    places = [_place(port) for port in wanted]
    if len(set(places)) < len(places):
        raise UsageError("one port of the host cannot be published twice")
    if hypervisor.local:
        free_again = {_place(port) for domain in replaced for port in _ports_of(domain)}
        for port in wanted:
            if _place(port) not in free_again:
                _bind(port)


def _place(port: PublishedPort) -> tuple[str, int, Transport]:
    return port.address, port.host, port.transport


def _ports_of(domain: Domain) -> tuple[PublishedPort, ...]:
    try:
        return metadata_xml.read(domain.metadata_xml or "").ports
    except WrongState:
        return ()  # it is not known which; what is taken is told


def _bind(port: PublishedPort) -> None:
    kind = socket.SOCK_STREAM if port.transport is Transport.TCP else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((port.address, port.host))
        except OSError as exc:
            if exc.errno == errno.EADDRNOTAVAIL:
                raise HostCannot(f"{port.address} is no address of the libvirt host") from exc
            raise PortTaken.of(port) from exc


def publish(hypervisor: Hypervisor, uuid: str, wish: PortWish) -> PublishedPort:
    """Publish one port: on the host port that was asked for, or on a free one."""
    if wish.host is not None:
        port = wish.at(wish.host)
        hypervisor.publish(uuid, port)
        return port
    # Whether a port is free is known on the libvirt host only: try.
    for host_port in random.sample(CHOSEN_PORTS, _TRIES):  # noqa: S311 - no secret
        with contextlib.suppress(PortTaken):
            port = wish.at(host_port)
            hypervisor.publish(uuid, port)
            return port
    raise HostCannot(f"no free port found on the libvirt host for the guest's port {wish.guest}")
