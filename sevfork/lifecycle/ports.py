"""A guest's TCP ports on the loopback of the libvirt host: what is wished for, what is had."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from sevfork.domain.metadata import PublishedPort
from sevfork.errors import HostCannot
from sevfork.host.hypervisor import Hypervisor, PortTaken

LOOPBACK = "127.0.0.1"
# Where a host port is chosen by sevfork: above the usual services, below Linux's ephemeral range.
CHOSEN_PORTS = range(20000, 32000)
_TRIES = 100


@dataclass(frozen=True)
class PortWish:
    """A guest's TCP port to publish; ``host`` None lets sevfork choose."""

    host: int | None
    guest: int


def require_free(wishes: Iterable[PortWish], given_up: Iterable[PublishedPort] = ()) -> None:
    """Tell now what QEMU would tell when the guest has booted; raises PortTaken.

    Looks at this machine's ports: for a libvirt host that is this machine. ``given_up``: ports of
    VMs that are removed before.
    """
    free_again = {port.host for port in given_up}
    for wish in wishes:
        if wish.host and wish.host not in free_again:
            _bind(wish.host)


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
