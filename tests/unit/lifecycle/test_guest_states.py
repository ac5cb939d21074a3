"""What an agent does in each state of its VM, and what it refuses to whoever holds its channel."""

from __future__ import annotations

import pytest

from sevfork import errors
from sevfork.agent.agent import Agent
from sevfork.handshake import InstanceKey
from sevfork.handshake.launch import LaunchConfig, Role
from sevfork.image.image import Image
from sevfork.lifecycle.fork import ForkRequest, plan_fork
from sevfork.lifecycle.fork.capture import opened
from sevfork.lifecycle.fork.child import place_in
from sevfork.lifecycle.fork.launch import child_domain
from sevfork.lifecycle.launching import child_config
from sevfork.lifecycle.up import UpRequest, plan_up, run_up
from sevfork.wire import protocol
from tests.support.fake_guests import FakeGuest, FakeHouse
from tests.support.jobs import captured_fork, job_on

GRANT = protocol.Restore(b"grant", "sf-0123456789abcdef")


def ask(guest: FakeGuest, request: protocol.Request) -> protocol.Reply:
    return guest.agent.handle(request, lambda *_: None)


@pytest.fixture
def child(house: FakeHouse, parent: FakeGuest) -> FakeGuest:
    """Launched and configured for an OFFER, without a GRANT."""
    job = job_on(house)
    with opened(job, plan_fork(house, ForkRequest("web"))) as fork:
        spec = child_domain(job, fork.plan, place_in(fork, 0))
        house.define(_xml(spec))
        house.start(spec.uuid)
    guest = house.guests[spec.uuid]
    ask(guest, protocol.Configure(child_config(fork.offers[0]).encode()))
    return guest


def _xml(spec: object) -> str:
    from sevfork.domain.xml import domain_xml

    return domain_xml(spec)  # type: ignore[arg-type]


def test_a_child_starts_no_workload_and_raises_no_network(child: FakeGuest) -> None:
    status = ask(child, protocol.GetStatus())
    assert isinstance(status, protocol.Status)
    assert (status.phase, status.role) == ("waiting", "child")
    assert (child.is_running, child.network_up) == (False, False)


@pytest.mark.parametrize(
    "request_",
    [
        protocol.Reserve(1, warm=False),
        protocol.Capture(bytes(16), "sf-0123456789abcdef"),
        protocol.RelayJoin(bytes(16), 0, b"join"),
        protocol.RelayConfirm(bytes(16), 0, b"confirm"),
        protocol.RelayEvent(bytes(16), 0, b"event"),
        protocol.Adopt(b"certificate"),
        protocol.GetLineage(),
    ],
)
def test_a_child_without_a_grant_is_no_parent(child: FakeGuest, request_: protocol.Request) -> None:
    with pytest.raises(errors.WrongState):
        ask(child, request_)


def test_a_child_takes_no_grant_before_it_has_joined(child: FakeGuest) -> None:
    with pytest.raises(errors.WrongState):
        ask(child, GRANT)
    assert not child.is_running


def test_a_child_is_not_configured_anew_as_a_root(child: FakeGuest) -> None:
    with pytest.raises(errors.RefusedByGuest, match="configured already"):
        ask(child, protocol.Configure(LaunchConfig(Role.ROOT).encode()))
    assert not child.is_running


@pytest.mark.parametrize("request_", [protocol.RelayOffer(b"offer"), GRANT])
def test_a_root_is_no_child(parent: FakeGuest, request_: protocol.Request) -> None:
    with pytest.raises(errors.RefusedByGuest, match="not a child"):
        ask(parent, request_)


def test_the_same_configuration_again_changes_nothing(parent: FakeGuest) -> None:
    before = ask(parent, protocol.GetStatus())
    assert ask(parent, protocol.Configure(LaunchConfig(Role.ROOT).encode())) == before


def test_a_root_is_not_told_that_it_is_somebody_elses(parent: FakeGuest) -> None:
    owned = LaunchConfig(Role.ROOT, owner=b"o" * 48)
    with pytest.raises(errors.RefusedByGuest):
        ask(parent, protocol.Configure(owned.encode()))


def test_a_configuration_that_the_hardware_has_not_signed(
    house: FakeHouse, parent: FakeGuest
) -> None:
    agent = Agent(house.measured, InstanceKey(), parent, parent, parent.engine, parent)
    parent.is_running = False
    owned = LaunchConfig(Role.ROOT, owner=b"o" * 48)
    with pytest.raises(errors.AttestationFailed, match="launch configuration"):
        agent.handle(protocol.Configure(owned.encode()), lambda *_: None)
    assert not parent.is_running


def test_an_agent_that_was_started_again_serves_no_fork(
    house: FakeHouse, parent: FakeGuest
) -> None:
    agent = Agent(house.measured, InstanceKey(), parent, parent, parent.engine, parent)
    with pytest.raises(errors.WrongState, match="started again"):
        agent.handle(protocol.Configure(LaunchConfig(Role.ROOT).encode()), lambda *_: None)
    assert parent.is_running


@pytest.mark.parametrize("size", [0, 15, 65, 4096])
def test_a_nonce_of_an_odd_size(parent: FakeGuest, size: int) -> None:
    with pytest.raises(errors.RefusedByGuest):
        ask(parent, protocol.Attest(bytes(size)))


@pytest.mark.parametrize("count", [0, -1, 65, 2**31])
def test_places_for_an_odd_number_of_children(parent: FakeGuest, count: int) -> None:
    with pytest.raises(errors.UsageError):
        ask(parent, protocol.Reserve(count, warm=False))


def test_abandoning_what_never_was_is_harmless(parent: FakeGuest) -> None:
    assert ask(parent, protocol.Abandon(bytes(16))) == protocol.Done()


def test_the_wall_clock_is_stepped_once_before_anything_starts(parent: FakeGuest) -> None:
    before = list(parent.clock_steps_ns)
    assert len(before) == 1
    assert abs(before[0]) < 10**9, "the fake guest has this machine's clock"
    config = LaunchConfig(Role.ROOT).encode()
    ask(parent, protocol.Configure(config, 10**15))
    assert parent.clock_steps_ns == before


def test_a_child_has_its_clock_stepped_too(child: FakeGuest) -> None:
    assert len(child.clock_steps_ns) == 1


def test_what_a_trial_found_is_a_hint_and_a_capture_tries(
    house: FakeHouse, parent: FakeGuest
) -> None:
    house.uncapturable = "a connection was being accepted"
    image = Image.load(house.pool / "image")
    run_up(job_on(house), plan_up(house, UpRequest("moody", image)))
    (moody,) = set(house.guests.values()) - {parent}
    assert _uncapturable(moody) == house.uncapturable
    with captured_fork(job_on(house), plan_fork(house, ForkRequest("moody"))):
        assert _uncapturable(moody) is None


def _uncapturable(guest: FakeGuest) -> str | None:
    status = ask(guest, protocol.GetStatus())
    assert isinstance(status, protocol.Status)
    return status.uncapturable
