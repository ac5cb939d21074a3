"""A host that cheats with warm children, against real guests: each trick ends by its rule.

The table in ``docs/handshake.md`` says by which. The host's part is ``lifecycle/warm``; here its
steps are done one by one, by somebody who does not mean well.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import pytest
import redis

from sevfork import errors
from sevfork.domain.spec import GuestSpec
from sevfork.domain.xml import spec_from_xml
from sevfork.handshake.warm_messages import Answer
from sevfork.host.agent_client import AgentClient
from sevfork.host.hypervisor import Hypervisor
from sevfork.lifecycle.agents import greet_agent
from sevfork.lifecycle.fork import ForkRequest, plan_fork
from sevfork.lifecycle.fork.capture import Capture, OpenFork
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.parent import parent_of
from sevfork.lifecycle.ports import PortWish, publish
from sevfork.lifecycle.snapshot.update import drop_snapshot, update_snapshot
from sevfork.lifecycle.snapshot.volume import PluggedSnapshot, plug
from sevfork.lifecycle.warm.make import Freshness, make_warm
from sevfork.wire import protocol
from sevfork.wire.volume_serial import new_serial
from tests.support.jobs import captured_fork, job_on
from tests.vm.lab import Lab, Vm

FRESHNESS = Freshness(max_lag_s=900)
_Reply = TypeVar("_Reply", bound=protocol.Message)


@dataclass(frozen=True)
class Warm:
    """A warm child, the channel to its agent, and the place that its OFFER is for."""

    job: Job
    spec: GuestSpec
    agent: AgentClient
    fork_id: bytes

    def ask(self, request: protocol.Message, reply: type[_Reply]) -> _Reply:
        return self.agent.ask(request, reply, deadline=self.job.deadline)

    def absorb(self, update: bytes, serial: str) -> protocol.Held:
        return self.ask(protocol.Absorb(update, serial), protocol.Held)


@dataclass(frozen=True)
class Host:
    """Who keeps the parent's pool, and relays as it pleases."""

    job: Job
    parent: GuestSpec

    @property
    def hypervisor(self) -> Hypervisor:
        return self.job.hypervisor

    def update(self) -> PluggedSnapshot:
        return update_snapshot(self.job, self.parent).plugged

    def next_update_of(self, child: Warm) -> bytes:
        with parent_of(self.job, self.parent) as parent:
            refresh = protocol.Refresh(child.fork_id, 0)
            return parent.ask(refresh, protocol.Refreshed).update

    @contextlib.contextmanager
    def warm(self, name: str, snapshot: PluggedSnapshot) -> Iterator[Warm]:
        plan = plan_fork(self.hypervisor, ForkRequest(self.parent.uuid, name=name, cold=True))
        make_warm(self.job, plan, snapshot, FRESHNESS)
        spec = spec_from_xml(self.hypervisor.xml(self.hypervisor.find(name).uuid))
        with contextlib.closing(greet_agent(self.job, spec)) as agent:
            yield Warm(self.job, spec, agent, bytes.fromhex(spec.metadata.fork_id or ""))

    @contextlib.contextmanager
    def fork(self, name: str) -> Iterator[tuple[OpenFork, Capture]]:
        """A capture on top of the snapshot, to which warm children can be called."""
        plan = plan_fork(self.hypervisor, ForkRequest(self.parent.uuid, name=name))
        with captured_fork(self.job, plan) as captured:
            yield captured


@pytest.fixture(scope="module")
def host(lab: Lab, hypervisor: Hypervisor) -> Iterator[Host]:
    vm = lab.up("redis")
    host = Host(job_on(hypervisor, seconds=600), spec_from_xml(hypervisor.xml(vm.uuid)))
    yield host
    drop_snapshot(host.job, host.parent)
    lab.remove(vm)
    assert lab.leftovers() == []


@pytest.fixture(scope="module")
def client(lab: Lab, host: Host) -> Iterator[redis.Redis]:
    """Of the parent's workload, which answers to the end, whatever the host has tried."""
    vm = Vm.of(lab.vms()[host.parent.name])
    client = vm.redis()
    client.set("written", "before the snapshot")
    yield client
    assert client.get("written") == b"at the fork"


@dataclass(frozen=True)
class Scene:
    """Two warm children with the snapshot's first layer, a capture made since, and a volume as it
    was before all that."""

    host: Host
    fork: OpenFork
    serial: str
    rolled_back: str
    children: tuple[Warm, Warm]

    def called(self, child: Warm) -> protocol.Called:
        call = protocol.Call(child.fork_id, 0, self.fork.fork_id)
        return self.fork.parent.ask(call, protocol.Called)

    def answered(self, child: Warm, called: protocol.Called) -> bytes:
        return child.ask(protocol.RelayCall(called.call), protocol.Answering).answer

    def activated(self, child: Warm, answer: bytes) -> bytes:
        relayed = protocol.RelayAnswer(child.fork_id, 0, answer)
        return self.fork.parent.ask(relayed, protocol.Activated).activate


@pytest.fixture(scope="module")
def scene(host: Host, client: redis.Redis, lab: Lab) -> Iterator[Scene]:
    names = [f"{host.parent.name}-{letter}" for letter in "ab"]
    snapshot = host.update()
    old, serial = f"{new_serial()}.snapshot", new_serial()
    with contextlib.ExitStack() as stack:
        stack.callback(lab.run, "rm", *names, check=False)
        first, second = (stack.enter_context(host.warm(name, snapshot)) for name in names)
        copy = host.hypervisor.storage.create(old, snapshot.volume.size_bytes)
        stack.callback(host.hypervisor.storage.delete, old)
        shutil.copyfile(snapshot.volume.path, copy.path)
        plug(host.hypervisor, second.spec.uuid, PluggedSnapshot(copy, serial), readonly=True)
        client.set("written", "after the snapshot")
        host.update()
        _refuse_updates_out_of_order(host, first, second, snapshot.serial)
        client.set("written", "at the fork")
        fork, capture = stack.enter_context(host.fork(f"{host.parent.name}-cold"))
        client.set("since", secrets.token_hex())
        yield Scene(host, fork, capture.serial, serial, (first, second))


def _refuse_updates_out_of_order(host: Host, child: Warm, other: Warm, serial: str) -> None:
    """UPDATEs left out, repeated, or of another child; ``other`` is left without any."""
    earlier, later = host.next_update_of(child), host.next_update_of(child)
    with pytest.raises(errors.NotAuthentic, match="update: got number 1, wanted 0"):
        child.absorb(later, serial)
    with pytest.raises(errors.NotAuthentic, match="does not open"):
        other.absorb(earlier, serial)
    child.absorb(earlier, serial)
    with pytest.raises(errors.NotAuthentic, match="update: got number 0, wanted 1"):
        child.absorb(earlier, serial)
    child.absorb(later, serial)


def test_evidence_of_an_earlier_answer_is_no_evidence_for_a_later_call(scene: Scene) -> None:
    child = scene.children[0]
    earlier = scene.answered(child, scene.called(child))
    answer = scene.answered(child, scene.called(child))
    with pytest.raises(errors.AttestationFailed, match="report data"):
        scene.activated(child, earlier)
    reused = Answer(Answer.decode(answer).core, Answer.decode(earlier).evidence).encode()
    with pytest.raises(errors.AttestationFailed, match="report data"):
        scene.activated(child, reused)


def test_an_answer_of_one_child_activates_no_other(scene: Scene) -> None:
    one, other = scene.children
    answer = scene.answered(one, scene.called(one))
    scene.called(other)
    with pytest.raises(errors.AttestationFailed, match="report data"):
        scene.activated(other, answer)


def test_a_child_is_activated_once_and_has_what_it_missed(scene: Scene) -> None:
    """It was handed out without the last update: what it runs is the state of the fork.

    Called twice, answering twice, or with its ACTIVATE replayed, to itself or to another child.
    """
    child, other = scene.children
    answer = scene.answered(child, scene.called(child))
    activate = scene.activated(child, answer)
    scene.answered(other, scene.called(other))
    with pytest.raises(errors.NotAuthentic, match="does not open"):
        other.ask(protocol.Activate(activate, scene.serial), protocol.Restored)
    restored = child.ask(protocol.Activate(activate, scene.serial), protocol.Restored)

    parent = scene.fork.parent
    confirm = protocol.RelayConfirm(child.fork_id, 0, restored.confirm)
    parent.ask(confirm, protocol.Done)
    with pytest.raises(errors.RefusedByGuest, match="spent"):
        scene.activated(child, answer)
    with pytest.raises(errors.WrongState, match="call"):
        scene.called(child)
    with pytest.raises(errors.RefusedByGuest, match="not a child that waits"):
        child.ask(protocol.Activate(activate, scene.serial), protocol.Restored)
    with pytest.raises(errors.WrongState, match="confirm"):
        parent.ask(confirm, protocol.Done)

    hypervisor, uuid = scene.host.hypervisor, child.spec.uuid
    hypervisor.set_link(uuid, child.spec.mac, up=True)
    port = publish(hypervisor, uuid, PortWish(None, 6379)).host
    theirs = redis.Redis("127.0.0.1", port, socket_timeout=60)
    assert (theirs.get("written"), theirs.get("since")) == (b"at the fork", None)


def test_a_volume_as_it_was_before_ends_the_child_that_is_given_it(scene: Scene) -> None:
    """An old delta for a new one: what is missing is not there, or is of another chain."""
    child = scene.children[1]
    activate = scene.activated(child, scene.answered(child, scene.called(child)))
    with pytest.raises(errors.NotAuthentic):
        child.ask(protocol.Activate(activate, scene.rolled_back), protocol.Restored)
    for _ in scene.host.job.poll(0.2, "the child that was cheated runs on"):
        if not scene.host.hypervisor.find(child.spec.uuid).state.active:
            break
