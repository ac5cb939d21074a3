"""The fork use case, with the real agent on both sides, on a hypervisor in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace

import pytest

from sevfork import errors
from sevfork.domain import metadata_xml
from sevfork.domain.disks import disk_xml
from sevfork.domain.launch_security import SnpLaunch
from sevfork.domain.metadata import Phase
from sevfork.handshake.launch import launch_config_hash
from sevfork.host import agent_client
from sevfork.host.hypervisor import Domain, DomainState
from sevfork.lifecycle import agents
from sevfork.lifecycle.fork import ForkedChild, ForkOutcome, ForkRequest, plan_fork, run_fork
from sevfork.lifecycle.fork.capture import opened
from sevfork.lifecycle.fork.child import make_child
from sevfork.lifecycle.fork.run import results
from sevfork.lifecycle.fork.sealed_volume import make_volume
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.launching import child_config, launched_as
from sevfork.lifecycle.ports import PortWish
from sevfork.lifecycle.reap import reap
from sevfork.lifecycle.undo import Undo
from sevfork.technology import Technology
from tests.support.fake_guests import STATE, FakeGuest, FakeHouse
from tests.support.jobs import captured_fork, job_on


def forked(house: FakeHouse, *, seconds: float = 60, **wishes: object) -> ForkOutcome:
    request = replace(ForkRequest("web"), **wishes)  # type: ignore[arg-type]
    return run_fork(job_on(house, seconds=seconds), plan_fork(house, request))


def names(house: FakeHouse) -> list[str]:
    return sorted(domain.name for domain in house.domains())


def assert_only_the_parent_is_left(house: FakeHouse, parent: FakeGuest) -> None:
    assert names(house) == ["web"]
    assert not [name for name in house.storage.files if name.endswith(".sealed")]
    assert "-fork" not in " ".join(house.storage.files)
    assert not house.busy, "a channel was left open"
    assert parent.state == STATE
    assert forked(house).children[0].error is None, "the parent cannot be forked any more"


def test_children_hold_the_state_and_are_ready(house: FakeHouse, parent: FakeGuest) -> None:
    outcome = forked(house, count=3)
    assert [child.name for child in outcome.children] == ["web-fork", "web-fork1", "web-fork2"]
    for child in outcome.children:
        guest = house.guests[child.uuid]
        assert (guest.state, guest.generation, guest.network_up) == (STATE, 1, True)
        metadata = metadata_xml.from_domain(house.xml(child.uuid))
        assert metadata is not None
        assert (metadata.phase, metadata.maker, metadata.generation) == (Phase.READY, None, 1)
        assert metadata.ports == child.ports != ()
    captures = [each for each in house.heard if type(each).__name__ == "Capture"]
    assert len(captures) == 1, "one capture serves every child"
    assert not [name for name in house.storage.files if name.endswith(".sealed")]


def test_a_parent_with_a_device_that_cannot_be_forked_is_refused_before_it_is_asked(
    house: FakeHouse, parent: FakeGuest
) -> None:
    heard = len(house.heard)
    house.attach_device(house.find("web").uuid, "<shmem name='pool'/>")
    with pytest.raises(errors.WrongState, match="shmem 'pool'"):
        forked(house)
    assert len(house.heard) == heard
    assert names(house) == ["web"]


def test_what_an_admin_added_to_the_parent_is_in_its_children_and_theirs(
    house: FakeHouse, parent: FakeGuest
) -> None:
    house.attach_device(house.find("web").uuid, "<watchdog model='i6300esb' action='none'/>")
    forked(house)
    forked(house, parent="web-fork")
    for name in ("web-fork", "web-fork-fork"):
        assert "<watchdog" in house.xml(house.find(name).uuid)


def test_a_child_can_be_forked(house: FakeHouse, parent: FakeGuest) -> None:
    forked(house)
    outcome = forked(house, parent="web-fork")
    assert house.guests[outcome.children[0].uuid].generation == 2


def test_a_child_boots_while_its_parent_captures(house: FakeHouse, parent: FakeGuest) -> None:
    booted = threading.Event()

    def watch(who: str, phase: str, done: int = 0, total: int = 0) -> None:
        if phase == "waiting for the capture":
            booted.set()
        if phase == "copy":
            assert booted.wait(30), "the child waits for the capture to boot"

    outcome = run_fork(job_on(house, watch=watch), plan_fork(house, ForkRequest("web")))
    assert outcome.children[0].error is None


def test_a_capture_that_fails_takes_no_vm_that_was_to_be_replaced(
    house: FakeHouse, parent: FakeGuest
) -> None:
    forked(house, name="copy")
    before = names(house)
    plan = plan_fork(house, ForkRequest("web", name="copy", replace=True))
    with pytest.raises(errors.HostCannot):
        run_fork(job_on(house, watch=interrupting("flush", errors.HostCannot("full"))), plan)
    assert names(house) == before


def test_one_child_that_fails_is_removed_and_the_others_live(
    house: FakeHouse, parent: FakeGuest
) -> None:
    failures = iter([errors.RefusedByGuest("the hook failed")])

    def fail_once() -> None:
        for error in failures:
            raise error

    house.on_resume = fail_once
    outcome = forked(house, count=3)
    failed = [child for child in outcome.children if child.error]
    assert len(failed) == 1
    assert isinstance(failed[0].error, errors.RefusedByGuest)
    assert len(names(house)) == 3
    assert failed[0].name not in names(house)


def test_all_or_nothing_removes_the_children_that_were_ready(
    house: FakeHouse, parent: FakeGuest
) -> None:
    outcomes = iter([None, None, errors.NotAuthentic("the third fails")])

    def fail_in_the_end() -> None:
        error = next(outcomes, None)
        if error:
            raise error

    house.on_resume = fail_in_the_end
    with pytest.raises(errors.NotAuthentic, match="the third fails"):
        forked(house, count=3, all_or_nothing=True)
    assert_only_the_parent_is_left(house, parent)


@pytest.mark.parametrize(
    "error", [errors.NotAuthentic("x"), errors.RefusedByGuest("x"), ZeroDivisionError("x")]
)
def test_a_restore_that_fails_leaves_nothing(
    house: FakeHouse, parent: FakeGuest, error: Exception
) -> None:
    def fail() -> None:
        raise error

    house.on_resume = fail
    with pytest.raises(errors.SevforkError) as caught:
        forked(house)
    assert type(caught.value) is type(error) or isinstance(error, ZeroDivisionError)
    house.on_resume = lambda: None
    assert_only_the_parent_is_left(house, parent)


def interrupting(phase: str, error: type[BaseException] | BaseException) -> Callable[..., None]:
    def watch(who: str, now: str, done: int = 0, total: int = 0) -> None:
        if now == phase:
            raise error

    return watch


@pytest.mark.parametrize("phase", ["connect", "copy", "launch", "boot", "handshake"])
def test_an_interrupt_leaves_nothing(house: FakeHouse, parent: FakeGuest, phase: str) -> None:
    plan = plan_fork(house, ForkRequest("web"))
    watch = interrupting(phase, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        run_fork(job_on(house, watch=watch), plan)
    assert_only_the_parent_is_left(house, parent)


def test_an_interrupt_takes_children_that_were_ready_already(
    house: FakeHouse, parent: FakeGuest
) -> None:
    plan = plan_fork(house, ForkRequest("web", count=2))

    def interrupted_after_the_first(job: Job) -> None:
        with Undo() as undo, captured_fork(job, plan) as (fork, _):
            make_child(job, fork, 0, undo)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_after_the_first(job_on(house))
    assert_only_the_parent_is_left(house, parent)


def test_a_clean_up_that_fails_does_not_replace_the_outcome(
    house: FakeHouse, parent: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise errors.HypervisorUnreachable("gone")

    monkeypatch.setattr(house.storage, "delete", fail)
    assert forked(house).children[0].error is None


def test_a_volume_that_the_parent_does_not_let_go_is_kept_for_the_next_command(
    house: FakeHouse, parent: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stuck(uuid: str, xml: str, target: str, timeout_s: float) -> None:
        raise errors.TimedOut("the guest did not let the disk go")

    with monkeypatch.context() as patch:
        patch.setattr(house, "detach_disk", stuck)
        with pytest.raises(errors.TimedOut):
            forked(house)
    assert [name for name in house.storage.files if name.endswith(".sealed")]
    assert forked(house).children[0].error is None, "the parent cannot be forked any more"


def test_two_forks_that_planned_the_same_default_name(house: FakeHouse, parent: FakeGuest) -> None:
    plans = [plan_fork(house, ForkRequest("web")) for _ in range(2)]
    assert plans[0].names == plans[1].names
    for plan in plans:
        run_fork(job_on(house), plan)
    assert names(house) == ["web", "web-fork", "web-fork1"]


def test_an_agent_that_makes_too_few_offers(
    house: FakeHouse, parent: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sevfork.agent.forks.Forks._offer", lambda *_, **__: ())
    with pytest.raises(errors.NotAuthentic):
        forked(house)
    assert names(house) == ["web"]


def test_a_parent_that_ends_meanwhile_is_told_as_that(house: FakeHouse, parent: FakeGuest) -> None:
    (domain,) = house.domains()
    house.on_resume = lambda: house.end(domain.uuid)
    with pytest.raises(errors.WrongState, match="the parent 'web' has ended"):
        forked(house)
    assert names(house) == ["web"]


@pytest.mark.parametrize("call", ["start", "open_channel", "attach_device", "set_link", "publish"])
def test_a_childs_end_has_one_exit_code_whichever_call_hears_of_it_first(
    house: FakeHouse, parent: FakeGuest, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """libvirt says only that the domain is not running."""
    (domain,) = house.domains()
    genuine = getattr(house, call)

    def ends_the_child(uuid: str, *more: object, **options: object) -> object:
        made = genuine(uuid, *more, **options)
        if uuid == domain.uuid:
            return made
        house.end(uuid)
        if call == "start":
            return made
        raise errors.WrongState("libvirt: Requested operation is not valid: domain is not running")

    monkeypatch.setattr(house, call, ends_the_child)
    with pytest.raises(errors.RolledBack, match="'web-fork' ended before it was ready"):
        forked(house)
    assert names(house) == ["web"]


def test_a_vm_that_sevfork_did_not_make(house: FakeHouse) -> None:
    house.add_foreign("other")
    with pytest.raises(errors.WrongState, match="no sevfork agent"):
        forked(house, parent="other")


def test_a_vm_that_does_not_run(house: FakeHouse, parent: FakeGuest) -> None:
    (domain,) = house.domains()
    house.end(domain.uuid)
    with pytest.raises(errors.WrongState, match="shut off"):
        forked(house)


@pytest.mark.parametrize(
    ("state", "remedy"),
    [
        (DomainState.PAUSED, "virsh --connect 'fake:///' resume 'web'"),
        (DomainState.SUSPENDED, "virsh --connect 'fake:///' dompmwakeup 'web'"),
        (DomainState.SHUTTING_DOWN, "sevfork rm 'web'"),
        (DomainState.CRASHED, "sevfork rm 'web'"),
        (DomainState.SHUT_OFF, "sevfork rm 'web'"),
    ],
)
def test_a_vm_that_cannot_answer_is_refused_at_once_with_what_helps(
    house: FakeHouse, parent: FakeGuest, state: DomainState, remedy: str
) -> None:
    (domain,) = house.domains()
    house.pause(domain.uuid, state)
    with pytest.raises(errors.WrongState, match=f"'web' is {state.value}") as caught:
        plan_fork(house, ForkRequest("web"))
    assert remedy in str(caught.value.hint)


@pytest.mark.parametrize("when", ["copy", "boot", "handshake"])
def test_a_parent_that_is_paused_meanwhile_is_named_as_that(
    house: FakeHouse, parent: FakeGuest, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(agent_client, "SILENCE_S", 0.02)
    monkeypatch.setattr(agents, "PAUSE_S", 0.05)
    (domain,) = house.domains()

    def watch(who: str, phase: str, done: int = 0, total: int = 0) -> None:
        if phase == when:
            house.pause(domain.uuid)

    with pytest.raises(errors.WrongState, match="'web' is paused") as caught:
        run_fork(job_on(house, watch=watch), plan_fork(house, ForkRequest("web")))
    assert caught.value.hint == "virsh --connect 'fake:///' resume 'web'"
    house.pause(domain.uuid, DomainState.RUNNING)
    assert names(house) == ["web"]


def test_a_parent_that_goes_on_in_time_is_forked(
    house: FakeHouse, parent: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_client, "SILENCE_S", 0.02)
    monkeypatch.setattr(agent_client, "_RETRY_S", 0.05)
    (domain,) = house.domains()

    def watch(who: str, phase: str, done: int = 0, total: int = 0) -> None:
        if phase == "connect":
            house.pause(domain.uuid)
        if phase == "paused":
            house.pause(domain.uuid, DomainState.RUNNING)

    outcome = run_fork(job_on(house, watch=watch), plan_fork(house, ForkRequest("web")))
    assert outcome.children[0].error is None


def test_a_hypervisor_that_has_gone_is_noticed_while_an_agent_is_waited_for(
    house: FakeHouse, parent: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_client, "SILENCE_S", 0.02)
    (domain,) = house.domains()
    plan = plan_fork(house, ForkRequest("web"))

    def gone(reference: str) -> Domain:
        raise errors.HypervisorUnreachable("libvirt does not answer: client socket is closed")

    def watch(who: str, phase: str, done: int = 0, total: int = 0) -> None:
        if phase == "connect":
            house.pause(domain.uuid)
            monkeypatch.setattr(house, "find", gone)

    with pytest.raises(errors.HypervisorUnreachable):
        run_fork(job_on(house, watch=watch), plan)


def test_a_parent_that_cannot_be_captured_is_refused(house: FakeHouse, parent: FakeGuest) -> None:
    parent.refuses_capture = "the workload uses io_uring"
    with pytest.raises(errors.RefusedByGuest, match="io_uring"):
        forked(house)
    assert names(house) == ["web"]


def test_a_parent_whose_agent_is_busy_is_waited_for(house: FakeHouse, parent: FakeGuest) -> None:
    (domain,) = house.domains()
    other = house.open_channel(domain.uuid)
    threading.Timer(0.1, other.close).start()
    assert forked(house).children[0].error is None


def test_waiting_for_a_busy_parent_has_an_end(house: FakeHouse, parent: FakeGuest) -> None:
    (domain,) = house.domains()
    house.open_channel(domain.uuid)
    with pytest.raises(errors.TimedOut):
        forked(house, seconds=0.1)


def test_a_volume_that_a_killed_fork_left_in_the_parent_is_taken_out(
    house: FakeHouse, parent: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_fork(house, ForkRequest("web"))
    volume = make_volume(house, plan, Undo())
    disk = disk_xml(volume.path, plan.serial, "vdb", readonly=False)
    house.attach_device(plan.spec.uuid, disk)
    assert volume.path in house.xml(plan.spec.uuid)
    monkeypatch.setattr("sevfork.host.maker.tagged_by_the_dead", lambda name: name == volume.name)
    reap(house, lambda _: None)
    assert volume.path not in house.xml(plan.spec.uuid)
    assert volume.name not in house.storage.files


def test_a_parent_that_does_not_let_go_keeps_nobody_from_anything(
    house: FakeHouse, parent: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_fork(house, ForkRequest("web"))
    volume = make_volume(house, plan, Undo())
    disk = disk_xml(volume.path, plan.serial, "vdb", readonly=False)
    house.attach_device(plan.spec.uuid, disk)

    def stuck(uuid: str, xml: str, target: str, timeout_s: float) -> None:
        raise errors.TimedOut("the guest did not let the disk go")

    monkeypatch.setattr(house, "detach_disk", stuck)
    monkeypatch.setattr("sevfork.host.maker.tagged_by_the_dead", lambda name: name == volume.name)
    said: list[str] = []
    reap(house, said.append)
    assert "could not be cleaned up" in said[-1]
    assert volume.name in house.storage.files


def test_names_that_are_replaced_are_removed_just_before(
    house: FakeHouse, parent: FakeGuest
) -> None:
    first = forked(house, name="copy").children[0]
    second = forked(house, name="copy", replace=True).children[0]
    assert first.uuid != second.uuid
    assert names(house) == ["copy", "web"]


def test_a_foreign_vm_is_never_replaced(house: FakeHouse, parent: FakeGuest) -> None:
    house.add_foreign("copy")
    with pytest.raises(errors.InsecureRefused):
        forked(house, name="copy", replace=True)


def test_children_cannot_share_a_host_port(house: FakeHouse, parent: FakeGuest) -> None:
    with pytest.raises(errors.UsageError, match="share"):
        forked(house, count=2, publish=(PortWish(8080, 6379),))


def test_a_hardware_child_is_launched_with_the_hash_of_its_own_configuration(
    house: FakeHouse, parent: FakeGuest
) -> None:
    plan = plan_fork(house, ForkRequest("web"))
    with opened(job_on(house), plan) as fork:
        config = child_config(fork.offers[0])
    snp = Technology.SEV_SNP
    metadata = replace(plan.spec.metadata, technology=snp, processor=None)
    hardware = SnpLaunch("/usr/share/ovmf/OVMF.amdsev.fd", 51, 1, bytes(32))
    parent_spec = replace(plan.spec, metadata=metadata, hardware=hardware)
    spec = launched_as(house.storage, parent_spec, config)
    assert spec.hardware is not None
    assert isinstance(spec.hardware, SnpLaunch)
    assert spec.hardware.host_data == launch_config_hash(snp, config.encode())
    assert spec.metadata.processor is None


def test_what_a_childs_thread_raised_ends_the_wait_at_once() -> None:
    # A TimeoutError above all: it is also what a wait that took too long raises.
    failed: Future[ForkedChild] = Future()
    failed.set_exception(TimeoutError("the thread's own"))
    never_done: Future[ForkedChild] = Future()
    with pytest.raises(TimeoutError, match="the thread's own"):
        results([never_done, failed])


@pytest.fixture(autouse=True)
def _no_threads_are_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.main_thread():
            thread.join(10)
    assert threading.active_count() <= before + 2  # an agent's workload and warm-up threads
