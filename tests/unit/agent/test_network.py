"""The kernel's structures, byte for byte (netdevice(7), linux/route.h)."""

from __future__ import annotations

import ipaddress

from sevfork.agent.network import Address, address_request, route_request, socket_address


def test_an_internet_address_is_a_sockaddr_in() -> None:
    made = socket_address(ipaddress.IPv4Address("10.0.2.15"))
    assert made.hex() == "020000000a00020f0000000000000000"


def test_an_interface_request_has_the_name_and_the_address() -> None:
    made = address_request("eth0", Address().interface.ip)
    assert len(made) == 40
    assert made[:16] == b"eth0".ljust(16, b"\0")
    assert made[16:32] == socket_address(ipaddress.IPv4Address("10.0.2.15"))


def test_a_route_request_is_for_everywhere_through_the_gateway() -> None:
    made = route_request(Address().gateway)
    assert len(made) == 120
    assert made[8:24] == socket_address(ipaddress.IPv4Address(0))
    assert made[24:40] == socket_address(ipaddress.IPv4Address("10.0.2.2"))
    assert made[40:56] == socket_address(ipaddress.IPv4Address(0))
    assert made[56:58].hex() == "0300"  # up, gateway
