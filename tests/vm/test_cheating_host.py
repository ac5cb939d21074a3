"""A host that cheats, against real guests: each trick ends in its exit code, and no child.

The host's part of a fork is ``lifecycle/fork``; here its steps are done by somebody who does not
mean well. Where no real child is needed the host plays one itself, with evidence from the
simulated processor for whatever it likes to claim.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
from msgspec.structs import replace

from sevfork import errors
from sevfork.attest.evidence import Evidence
from sevfork.attest.verdict import LaunchIdentity
from sevfork.domain.metadata import ProcessorState
from sevfork.domain.spec import GuestSpec
from sevfork.handshake import ChildSession, InstanceKey, NeedEvidence, OwnLaunch
from sevfork.handshake.launch import LaunchConfig, Role, launch_config_hash
from sevfork.handshake.messages import Join, JoinCore, Offer
from sevfork.handshake.transcript import child_report_data, join_signature, transcript_1
from sevfork.host.hypervisor import Hypervisor
from sevfork.lifecycle.fork import ForkedChild, ForkRequest, plan_fork
from sevfork.lifecycle.fork.capture import Capture, OpenFork
from sevfork.lifecycle.fork.child import make_child
from sevfork.lifecycle.fork.launch import HONEST, Choices
from sevfork.lifecycle.fork.sealed_volume import make_volume, plugged
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.launching import child_config
from sevfork.lifecycle.undo import Undo
from sevfork.simulated.paths import simulator_directory
from sevfork.simulated.processor import SimulatedProcessor
from sevfork.technology import Technology
from sevfork.wire import protocol
from sevfork.wire.volume_serial import new_serial
from tests.support.jobs import captured_fork, job_on
from tests.vm.lab import Lab, Vm

CHILDREN = 24


@dataclass(frozen=True)
class Fork:
    """A fork that has captured, and whatever its host decides to make of it."""

    job: Job
    opened: OpenFork
    capture: Capture

    def make_child(self, index: int, choices: Choices = HONEST) -> ForkedChild:
        with Undo() as undo:
            return make_child(self.job, self.opened, index, undo, choices)


@pytest.fixture(scope="module")
def fork(lab: Lab, hypervisor: Hypervisor, redis_parent: Vm) -> Iterator[Fork]:
    """One capture with an OFFER for every trick."""
    # Some MiB, so that the sealed image has a first, a middle and a last chunk.
    redis_parent.redis().set("bulk", secrets.token_bytes(8 * 2**20))
    request = ForkRequest(redis_parent.name, CHILDREN, name=f"{redis_parent.name}-cheat")
    # Two at most run at a time, whatever the number of OFFERs.
    plan = dataclasses.replace(
        plan_fork(hypervisor, dataclasses.replace(request, count=2)),
        request=request,
        names=tuple(f"{redis_parent.name}-cheat{index}" for index in range(CHILDREN)),
    )
    job = job_on(hypervisor, seconds=1500)
    with captured_fork(job, plan) as (opened, capture):
        yield Fork(job, opened, capture)


@pytest.fixture(scope="module")
def next_offer() -> Iterator[int]:
    return iter(range(CHILDREN))


@pytest.fixture(autouse=True)
def parent_serves_on_and_no_child_is_left(lab: Lab, redis_parent: Vm) -> Iterator[None]:
    yield
    assert redis_parent.redis().get("bulk")
    assert not [name for name in lab.vms() if "-cheat" in name]


# ---- A host that plays the child itself ----


class FakeChild:
    """A child made of thin air, with evidence for whatever launch it claims."""

    def __init__(self, fork: Fork, index: int) -> None:
        self.fork, self.index = fork, index
        self.offer = fork.opened.offers[index]
        self.config = child_config(self.offer)
        self.key = InstanceKey()
        self.processor = SimulatedProcessor.load_or_create(simulator_directory(os.environ))
        parent = fork.opened.plan.spec.metadata.processor
        assert parent is not None
        host_data = launch_config_hash(Technology.SIMULATED, self.config.encode())
        self.state = ProcessorState(parent.measurement, host_data, secrets.token_bytes(32))

    def evidence(self, report_data: bytes) -> Evidence:
        state = self.state
        return self.processor.report(
            state.measurement, state.host_data, state.report_id, report_data
        )

    def launched_as(self, config: LaunchConfig) -> FakeChild:
        """The hardware signs this configuration."""
        host_data = launch_config_hash(Technology.SIMULATED, config.encode())
        self.config, self.state = config, dataclasses.replace(self.state, host_data=host_data)
        return self

    def join(self) -> bytes:
        """A JOIN that claims ``config`` and is signed for ``state``."""
        honest = child_config(self.offer).encode()
        session = ChildSession(self._own(honest), self.key, _no_verifier)
        (wanted,) = session.receive_offer(self.offer)
        assert isinstance(wanted, NeedEvidence)
        (sent,) = session.provide_evidence(self.evidence(wanted.report_data).encode())
        message: bytes = sent.message  # type: ignore[union-attr]  # a JOIN is sent
        if self.config.encode() == honest:
            return message
        return self._reclaimed(message, honest)

    def _reclaimed(self, message: bytes, honest: bytes) -> bytes:
        """The same JOIN with another launch configuration in it, and evidence for that."""
        core = message[: JoinCore.SIZE].replace(honest, self.config.encode())
        t1 = transcript_1(self.offer, core)
        evidence = self.evidence(child_report_data(t1)).encode()
        return Join(core, join_signature(self.key, t1), evidence).encode()

    def _own(self, config: bytes) -> OwnLaunch:
        return OwnLaunch(
            technology=Technology.SIMULATED,
            launch_config=config,
            launch_identity=LaunchIdentity(Technology.SIMULATED, ()),
            report_id=self.state.report_id,
            peer_chip_id=None,
            policy_digest=Offer.decode(self.offer).policy_digest,
        )

    def ask(self, join: bytes) -> bytes:
        request = protocol.RelayJoin(self.fork.opened.fork_id, self.index, join)
        return self.fork.opened.parent.ask(request, protocol.Granted).grant


def _no_verifier(evidence: bytes, expected: object) -> NoReturn:
    raise AssertionError("a fake child believes everything")


@pytest.fixture
def child(fork: Fork, next_offer: Iterator[int]) -> FakeChild:
    return FakeChild(fork, next(next_offer))


def test_an_honest_looking_fake_gets_a_grant_so_the_refusals_below_mean_something(
    child: FakeChild,
) -> None:
    # The simulated processor signs what the host asks for: this is why it is not confidential.
    join = child.join()
    assert child.ask(join) == child.ask(join), "a lost GRANT is sent again byte for byte"


def test_the_same_offer_used_twice(child: FakeChild) -> None:
    child.ask(child.join())
    with pytest.raises(errors.RefusedByGuest, match="spent"):
        child.ask(FakeChild(child.fork, child.index).join())


def test_a_join_replayed_to_another_offer(child: FakeChild, next_offer: Iterator[int]) -> None:
    join = child.join()
    with pytest.raises(errors.RefusedByGuest, match="another OFFER"):
        FakeChild(child.fork, next(next_offer)).ask(join)


def test_a_join_from_a_vm_launched_as_a_root(child: FakeChild) -> None:
    with pytest.raises(errors.RefusedByGuest, match="not launched as a child"):
        child.ask(child.launched_as(LaunchConfig(Role.ROOT)).join())


def test_a_root_that_claims_to_be_the_child(child: FakeChild) -> None:
    claimed = child.config
    child.launched_as(LaunchConfig(Role.ROOT)).config = claimed
    with pytest.raises(errors.AttestationFailed, match="launch configuration"):
        child.ask(child.join())


def test_a_child_launched_for_another_offer(child: FakeChild) -> None:
    other = LaunchConfig(Role.CHILD, None, secrets.token_bytes(48))
    with pytest.raises(errors.RefusedByGuest, match="another OFFER"):
        child.ask(child.launched_as(other).join())


def test_another_image(child: FakeChild) -> None:
    child.state = dataclasses.replace(child.state, measurement=secrets.token_bytes(48))
    with pytest.raises(errors.AttestationFailed, match="launch identity"):
        child.ask(child.join())


def test_the_parents_own_report_id(child: FakeChild) -> None:
    parent = child.fork.opened.plan.spec.metadata.processor
    assert parent is not None
    child.state = dataclasses.replace(child.state, report_id=parent.report_id)
    with pytest.raises(errors.AttestationFailed, match="report id"):
        child.ask(child.join())


def test_evidence_of_the_wrong_technology(child: FakeChild) -> None:
    honest = child.evidence

    def evidence(report_data: bytes) -> Evidence:
        return replace(honest(report_data), technology=Technology.SEV_SNP)

    child.evidence = evidence  # type: ignore[method-assign]
    with pytest.raises(errors.AttestationFailed, match="technology"):
        child.ask(child.join())


def test_evidence_signed_by_another_simulated_processor(child: FakeChild, tmp_path: Path) -> None:
    child.processor = SimulatedProcessor.load_or_create(tmp_path)
    with pytest.raises(errors.AttestationFailed, match="root"):
        child.ask(child.join())


def test_a_flipped_byte_in_a_join(child: FakeChild) -> None:
    join = bytearray(child.join())
    join[100] ^= 1
    with pytest.raises((errors.AttestationFailed, errors.NotAuthentic)):
        child.ask(bytes(join))


def test_attest_is_no_signing_oracle_for_a_childs_report_data(child: FakeChild) -> None:
    """Whatever nonce the host gives, the report data is hashed under another label."""
    join = child.join()
    t1 = transcript_1(child.offer, join[: JoinCore.SIZE])
    wanted = child_report_data(t1)
    attested = child.fork.opened.parent.ask(protocol.Attest(wanted), protocol.Attested)
    evidence = Evidence.decode(attested.evidence)
    assert evidence.report[0x50:0x90] != wanted
    forged = replace(Join.decode(join), evidence=attested.evidence).encode()
    with pytest.raises(errors.AttestationFailed, match="report data"):
        child.ask(forged)


def test_garbage_on_the_channel_and_a_host_that_leaves_in_the_middle_of_a_frame(
    child: FakeChild,
) -> None:
    channel = child.fork.opened.parent.agent.channel
    channel.send(secrets.token_bytes(3000) + b"\n" + b"QUJD" * 1000)
    child.ask(child.join())


# ---- Real children ----


@contextmanager
def tampered(fork: Fork, offset: int, data: bytes) -> Iterator[None]:
    """The sealed volume with other bytes at an offset, and put back as it was."""
    with Path(fork.capture.volume.path).open("r+b") as medium:
        medium.seek(offset)
        before = medium.read(len(data))
        assert before != data
        medium.seek(offset)
        medium.write(data)
        medium.flush()
        yield
        medium.seek(offset)
        medium.write(before)


def flipped(fork: Fork, offset: int) -> bytes:
    with Path(fork.capture.volume.path).open("rb") as medium:
        medium.seek(offset)
        return bytes([medium.read(1)[0] ^ 0x40])


CHUNK = 2**20
PLACES = ["header", "first chunk", "middle chunk", "last chunk"]


@pytest.mark.parametrize("place", PLACES)
def test_a_flipped_byte_in_the_sealed_volume(
    fork: Fork, next_offer: Iterator[int], place: str
) -> None:
    chunks = fork.capture.sealed_bytes // CHUNK
    at = {
        "header": 100,
        "first chunk": 4096 + 5,
        "middle chunk": 4096 + chunks // 2 * CHUNK + 77,
        "last chunk": 4096 + chunks * CHUNK - 3,
    }[place]
    with tampered(fork, at, flipped(fork, at)), pytest.raises(errors.NotAuthentic):
        fork.make_child(next(next_offer))


def test_a_truncated_volume(fork: Fork, next_offer: Iterator[int], tmp_path: Path) -> None:
    path = Path(fork.capture.volume.path)
    size = path.stat().st_size
    kept = tmp_path / "rest"
    end = fork.capture.sealed_bytes - CHUNK
    with path.open("r+b") as medium:
        medium.seek(end)
        kept.write_bytes(medium.read(2 * CHUNK))
        medium.truncate(end)
    try:
        with pytest.raises(errors.NotAuthentic):
            fork.make_child(next(next_offer))
    finally:
        with path.open("r+b") as medium:
            medium.seek(end)
            medium.write(kept.read_bytes())
            medium.truncate(size)


def test_another_images_volume(fork: Fork, next_offer: Iterator[int]) -> None:
    """The whole volume of another capture of the very same parent."""
    job, opened, serial = fork.job, fork.opened, new_serial()
    plan = dataclasses.replace(opened.plan, serial=serial, volume_name=f"{serial}.sealed")
    with Undo() as undo:
        volume = make_volume(job.hypervisor, plan, undo)
        with plugged(job.hypervisor, plan.spec.uuid, volume, serial, readonly=False):
            another = protocol.Reserve(1, warm=False)
            fork_id = opened.parent.ask(another, protocol.Reserved).fork_id
            opened.parent.ask(protocol.Capture(fork_id, serial), protocol.Captured)
        capture = dataclasses.replace(fork.capture, volume=volume, serial=serial)
        swapped = Fork(job, dataclasses.replace(opened, awaited=Future()), capture)
        swapped.opened.captured(capture)
        with pytest.raises(errors.NotAuthentic):
            swapped.make_child(next(next_offer))


def test_a_child_booted_with_another_command_line(fork: Fork, next_offer: Iterator[int]) -> None:
    def boot_something_else(spec: GuestSpec) -> GuestSpec:
        cmdline = f"{spec.boot.cmdline} sevfork.cheat=1"
        return dataclasses.replace(spec, boot=dataclasses.replace(spec.boot, cmdline=cmdline))

    with pytest.raises(errors.AttestationFailed, match="launch identity"):
        fork.make_child(next(next_offer), Choices(domain=boot_something_else))


def test_a_host_that_hands_a_child_another_launch_configuration(
    fork: Fork, next_offer: Iterator[int]
) -> None:
    """A child that is told it is a root would start its workload; the hardware says otherwise."""
    liar = Choices(told=lambda _offer: LaunchConfig(Role.ROOT))
    with pytest.raises(errors.AttestationFailed, match="launch configuration"):
        fork.make_child(next(next_offer), liar)


def test_and_an_honest_child_of_the_same_capture_still_works(
    fork: Fork, next_offer: Iterator[int], lab: Lab
) -> None:
    """So none of the refusals above came from something that was broken anyway."""
    made = fork.make_child(next(next_offer))
    lab.run("rm", made.name)
