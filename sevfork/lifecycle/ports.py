"""A guest's TCP ports on the loopback of the libvirt host: what is wished for, what is had."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from sevfork.domain import metadata_xml
from sevfork.domain.metadata import PublishedPort
from sevfork.errors import HostCannot, UsageError, WrongState
from sevfork.host.hypervisor import Domain, Hypervisor, PortTaken

LOOPBACK = "127.0.0.1"
# Where a host port is chosen by sevfork: above the usual services, below Linux's ephemeral range.
CHOSEN_PORTS = range(20000, 32000)
_TRIES = 100


@dataclass(frozen=True)
class PortWish:
    """A guest's TCP port to publish; ``host`` None lets sevfork choose."""

    host: int | None
    guest: int


def require_free(
    hypervisor: Hypervisor, wishes: Iterable[PortWish], replaced: Iterable[Domain] = ()
) -> None:
    """Tell now what QEMU would tell when the guest has booted; raises PortTaken, UsageError.

    VMs that are replaced give their ports up. The ports of another machine cannot be looked at.
    """
    wanted = [wish.host for wish in wishes if wish.host]
    if len(set(wanted)) < len(wanted):
        raise UsageError("one port of the host cannot be published twice")
    if hypervisor.local:
        free_again = {port.host for domain in replaced for port in _ports_of(domain)}
        for port in wanted:
            if port not in free_again:
                _bind(port)


def _ports_of(domain: Domain) -> tuple[PublishedPort, ...]:
    try:
        return metadata_xml.read(domain.metadata_xml or "").ports
    except WrongState:
        return ()  # it is not known which; what is taken is told


def _bind(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as exc:
            raise PortTaken.of(port) from exc


def publish(hypervisor: Hypervisor, uuid: str, wish: PortWish) -> PublishedPort:
    """Publish one port: on the host port that was asked for, or on a free one."""
    if wish.host is not None:
        hypervisor.publish(uuid, wish.host, wish.guest)
        return PublishedPort(wish.host, wish.guest)
    # Whether a port is free is known on the libvirt host only: try.
    for host_port in random.sample(CHOSEN_PORTS, _TRIES):  # noqa: S311 - no secret
        with contextlib.suppress(PortTaken):
            hypervisor.publish(uuid, host_port, wish.guest)
            return PublishedPort(host_port, wish.guest)
    raise HostCannot(f"no free port found on the libvirt host for the guest's port {wish.guest}")
