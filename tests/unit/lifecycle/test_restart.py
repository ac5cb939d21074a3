"""A VM that has ended is started anew, as its domain says it now; agents are real."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sevfork.domain import metadata_xml
from sevfork.domain.metadata import Metadata, Phase, SnapshotVolume
from sevfork.errors import HostCannot, RefusedByGuest, SevforkError, WrongState
from sevfork.host.hypervisor import DomainState
from sevfork.lifecycle.fork import ForkRequest, plan_fork, run_fork
from sevfork.lifecycle.ports import PortWish
from sevfork.lifecycle.restart import plan_restart, run_restart
from sevfork.lifecycle.up import UpOutcome
from tests.support.fake_guests import FakeGuest, FakeHouse
from tests.support.jobs import job_on


def restart(house: FakeHouse, name: str = "web") -> UpOutcome:
    return run_restart(job_on(house), plan_restart(house, name))


def metadata_of(house: FakeHouse, uuid: str) -> Metadata:
    found = metadata_xml.from_domain(house.xml(uuid))
    assert found is not None
    return found


def edit(house: FakeHouse, uuid: str, old: str, new: str) -> None:
    """As `virsh edit` and `virsh domrename` do it, of a VM that has ended."""
    text, state = house.defined[uuid]
    assert old in text
    house.defined[uuid] = (text.replace(old, new), state)


@pytest.fixture
def ended(house: FakeHouse, parent: FakeGuest) -> str:
    """A VM that served, and has ended."""
    uuid = house.find("web").uuid
    house.published.clear()  # they go with the guest
    house.end(uuid)
    return uuid


def test_it_serves_and_forks_as_before_under_its_new_name_with_what_was_edited(
    house: FakeHouse, ended: str
) -> None:
    before = metadata_of(house, ended)
    edit(house, ended, "<name>web</name>", "<name>shop</name>")
    edit(house, ended, "</devices>", "<watchdog model='i6300esb'/></devices>")
    outcome = restart(house, "shop")
    after = metadata_of(house, ended)
    assert (outcome.spec.uuid, outcome.spec.name) == (ended, "shop")
    assert [each.guest for each in after.ports] == [each.guest for each in before.ports] != []
    assert (after.phase, after.maker) == (Phase.READY, None)
    assert after.processor != before.processor, "it is another launch, with another report id"

    forked = run_fork(job_on(house), plan_fork(house, ForkRequest("shop")))
    child = house.xml(forked.children[0].uuid)
    assert "<watchdog" in child
    assert metadata_of(house, forked.children[0].uuid).parent_name == "shop"


def test_other_ports_can_be_published(house: FakeHouse, ended: str) -> None:
    plan = plan_restart(house, "web", (PortWish(17000, 6379),))
    run_restart(job_on(house), plan)
    assert [each.host for each in metadata_of(house, ended).ports] == [17000]


def test_a_snapshot_of_its_former_memory_is_deleted(house: FakeHouse, ended: str) -> None:
    name = "sf-0123456789abcdef.snapshot"
    house.storage.files[name] = bytearray(1)
    former = metadata_of(house, ended)
    snapshot = SnapshotVolume(name, "sf-0123456789abcdef")
    kept = replace(former, snapshot=snapshot, volumes=(*former.volumes, name))
    house.set_metadata(ended, metadata_xml.write(kept))
    restart(house)
    assert name not in house.storage.files
    assert metadata_of(house, ended).snapshot is None
    assert metadata_of(house, ended).volumes == former.volumes


@pytest.mark.parametrize("error", [RefusedByGuest("it fails"), KeyboardInterrupt()])
def test_where_it_fails_it_is_as_it_was_and_has_ended(
    house: FakeHouse, ended: str, error: BaseException
) -> None:
    before = house.xml(ended)

    def configure(*_: object) -> float:
        raise error

    with pytest.raises(type(error)):
        run_restart(job_on(house), plan_restart(house, "web"), configure)
    assert metadata_xml.from_domain(before) == metadata_of(house, ended)
    assert not house.state_of(ended).active


@pytest.mark.parametrize("state", [DomainState.RUNNING, DomainState.PAUSED])
def test_a_vm_that_runs_is_left_alone(
    house: FakeHouse, parent: FakeGuest, state: DomainState
) -> None:
    house.pause(house.find("web").uuid, state)
    with pytest.raises(WrongState, match="already"):
        restart(house)


def test_a_child_cannot_come_back(house: FakeHouse, parent: FakeGuest) -> None:
    run_fork(job_on(house), plan_fork(house, ForkRequest("web")))
    house.end(house.find("web-fork").uuid)
    with pytest.raises(WrongState, match="forked from another"):
        restart(house, "web-fork")


def test_who_forgot_the_image_of_a_new_vm_is_told(house: FakeHouse) -> None:
    with pytest.raises(WrongState) as caught:
        restart(house, "new")
    assert caught.value.hint == "a new VM needs --image"


def test_somebody_elses_is_refused(house: FakeHouse) -> None:
    house.add_foreign("theirs")
    with pytest.raises(WrongState, match="not made by sevfork"):
        restart(house, "theirs")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("org.sevfork.agent.0", "org.theirs", "no channel"),
        ("<on_reboot>destroy", "<on_reboot>restart", "'on_reboot'"),
        ("sevfork-root", "theirs", "no root disk"),
    ],
)
def test_what_sevfork_cannot_do_without_must_still_be_there(
    house: FakeHouse, ended: str, old: str, new: str, why: str
) -> None:
    edit(house, ended, old, new)
    starts = house.starts
    with pytest.raises(WrongState, match=why):
        restart(house)
    assert house.starts == starts


def test_a_vm_that_never_came_to_be_is_not_started(house: FakeHouse, ended: str) -> None:
    forming = replace(metadata_of(house, ended), phase=Phase.FORMING)
    house.set_metadata(ended, metadata_xml.write(forming))
    with pytest.raises(WrongState, match="never came to be"):
        restart(house)


def test_a_host_that_cannot_start_it_says_so(
    house: FakeHouse, ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(uuid: str) -> None:
        raise HostCannot("no huge pages")

    monkeypatch.setattr(house, "start", fails)
    with pytest.raises(SevforkError, match="no huge pages"):
        restart(house)
    assert metadata_of(house, ended).phase is Phase.READY
