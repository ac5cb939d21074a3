"""The guest's interfaces, by ioctl: no process to start, and nothing to parse.

``eth0`` stays down in a child until its hooks have run; that is what keeps every packet inside.
Requests and structures: netdevice(7), ``linux/route.h``. IPv6 is off but for
loopback (the kernel's command line, init).
"""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct

from msgspec import Struct

from sevfork.errors import SevforkError

LINK = "eth0"
_SIOCADDRT, _SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x890B, 0x8913, 0x8914
_SIOCSIFADDR, _SIOCSIFNETMASK = 0x8916, 0x891C
_IFF_UP, _RTF_UP, _RTF_GATEWAY, _EEXIST = 0x1, 0x1, 0x2, 17


class Address(Struct, frozen=True):
    """QEMU's user network gives a guest these; they are the same in every guest."""

    interface: ipaddress.IPv4Interface = ipaddress.IPv4Interface("10.0.2.15/24")
    gateway: ipaddress.IPv4Address = ipaddress.IPv4Address("10.0.2.2")


def loopback_up() -> None:
    _set_up("lo")


def link_up(address: Address | None = None) -> None:
    """Give the link its address and the default route, and let packets out."""
    chosen = address or Address()
    _control(_SIOCSIFADDR, address_request(LINK, chosen.interface.ip))
    _control(_SIOCSIFNETMASK, address_request(LINK, chosen.interface.netmask))
    _set_up(LINK)
    _control(_SIOCADDRT, route_request(chosen.gateway), accept_errno=_EEXIST)


def address_request(name: str, address: ipaddress.IPv4Address) -> bytes:
    """``struct ifreq`` with a ``sockaddr_in`` (40 bytes)."""
    return struct.pack("16s16s8x", name.encode(), socket_address(address))


def route_request(gateway: ipaddress.IPv4Address) -> bytes:
    """``struct rtentry`` of a default route (120 bytes on a 64-bit machine)."""
    anywhere = socket_address(ipaddress.IPv4Address(0))
    head = struct.pack(
        "L16s16s16sH", 0, anywhere, socket_address(gateway), anywhere, _RTF_UP | _RTF_GATEWAY
    )
    return head.ljust(120, b"\0")


def socket_address(address: ipaddress.IPv4Address) -> bytes:
    """``struct sockaddr_in`` with port 0."""
    return struct.pack("HH4s8x", socket.AF_INET, 0, address.packed)


def _flags(name: str) -> int:
    answer = _control(_SIOCGIFFLAGS, struct.pack("16sH22x", name.encode(), 0))
    return int(struct.unpack_from("H", answer, 16)[0])


def _set_up(name: str) -> None:
    flags = _flags(name) | _IFF_UP
    _control(_SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), flags))


def _control(request: int, argument: bytes, accept_errno: int = 0) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            return fcntl.ioctl(control, request, argument)
        except OSError as exc:
            if exc.errno == accept_errno:
                return argument
            raise SevforkError(f"the guest's network: {exc.strerror}") from exc
