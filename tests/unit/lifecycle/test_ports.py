"""Ports of the host: looked at before anything is made."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sevfork.domain.metadata import LOOPBACK, Transport
from sevfork.errors import HostCannot, UsageError
from sevfork.host.hypervisor import PortTaken
from sevfork.image.image import Image
from sevfork.lifecycle.fork import ForkRequest, plan_fork, run_fork
from sevfork.lifecycle.ports import PortWish
from sevfork.lifecycle.up import UpRequest, plan_up
from tests.support.fake_guests import FakeGuest, FakeHouse
from tests.support.image_factory import write_image
from tests.support.jobs import job_on

pytestmark = pytest.mark.own_processes  # sockets are what this is about


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind((LOOPBACK, 0))
        holder.listen()
        yield holder.getsockname()[1]


@pytest.fixture
def local(house: FakeHouse) -> FakeHouse:
    house.local = True
    return house


def test_a_fork_onto_a_taken_port_is_refused_before_anything_is_made(
    local: FakeHouse, parent: FakeGuest, taken: int
) -> None:
    with pytest.raises(PortTaken, match=f"port {taken}"):
        plan_fork(local, ForkRequest("web", publish=(PortWish(taken, 6379),)))


def test_a_vm_onto_a_taken_port_is_refused_before_anything_is_made(
    local: FakeHouse, taken: int, tmp_path: Path
) -> None:
    image = Image.load(write_image(tmp_path / "image"))
    with pytest.raises(PortTaken):
        plan_up(local, UpRequest("db", image, publish=(PortWish(taken, 6379),)))


def test_a_child_that_is_replaced_gives_its_port_up(
    local: FakeHouse, parent: FakeGuest, taken: int
) -> None:
    request = ForkRequest("web", name="copy", publish=(PortWish(taken, 6379),))
    local.local = False  # so that the first one is made at all
    run_fork(job_on(local), plan_fork(local, request))
    local.local = True
    again = ForkRequest("web", name="copy", publish=request.publish, replace=True)
    assert plan_fork(local, again).publish == request.publish


def test_the_ports_of_another_machine_are_not_looked_at(
    house: FakeHouse, parent: FakeGuest, taken: int
) -> None:
    assert plan_fork(house, ForkRequest("web", publish=(PortWish(taken, 6379),))).publish


def test_a_port_of_another_transport_or_address_is_another_port(
    local: FakeHouse, parent: FakeGuest, taken: int
) -> None:
    udp = PortWish(taken, 53, transport=Transport.UDP)
    assert plan_fork(local, ForkRequest("web", publish=(udp,))).publish == (udp,)
    with pytest.raises(HostCannot, match="no address of the libvirt host"):
        plan_fork(local, ForkRequest("web", publish=(PortWish(8080, 80, "192.0.2.1"),)))


def test_a_child_publishes_as_its_parent_does_on_ports_of_its_own(
    house: FakeHouse, parent: FakeGuest
) -> None:
    udp = PortWish(5353, 53, "192.0.2.7", Transport.UDP)
    made = run_fork(job_on(house), plan_fork(house, ForkRequest("web", publish=(udp,))))
    assert [str(port) for port in made.children[0].ports] == ["192.0.2.7:5353 -> 53/udp"]
    plan = plan_fork(house, ForkRequest("web-fork"))
    assert plan.publish == (PortWish(None, 53, "192.0.2.7", Transport.UDP),)


def test_one_port_for_two_is_refused(house: FakeHouse, parent: FakeGuest) -> None:
    twice = (PortWish(8080, 6379), PortWish(8080, 80))
    with pytest.raises(UsageError, match="twice"):
        plan_fork(house, ForkRequest("web", publish=twice))
