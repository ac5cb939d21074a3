"""The same exchange with reports in the hardware's format, verified under a guest's policy."""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from sevfork.attest.evidence import Evidence
from sevfork.attest.guest_policy import GuestPolicy, guest_policy_toml
from sevfork.attest.verify import Expected, verify
from sevfork.errors import AttestationFailed
from sevfork.handshake import (
    ChildSession,
    HoldState,
    InstanceKey,
    Layer,
    Lineage,
    Manifest,
    NeedEvidence,
    OwnLaunch,
    ParentSession,
    ReleaseState,
    Send,
    Slot,
    attest_report_data,
)
from sevfork.handshake.instance import SIGNATURE_SIZE
from sevfork.handshake.launch import LaunchConfig, Role, launch_config_hash
from sevfork.handshake.messages import JoinCore
from sevfork.simulated.processor import SimulatedProcessor
from sevfork.technology import Technology
from tests.support import simulators
from tests.support.fake_family import only

BUILT = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
REPORT_IN_JOIN = JoinCore.SIZE + SIGNATURE_SIZE + 4 + 4 + 4  # LP(evidence), its head, LP(report)
MANIFEST = Manifest(
    (
        Layer(
            image_key=b"k" * 32, header_digest=b"h" * 48, chunk_count=1, image_id=b"i" * 16, start=0
        ),
    )
)


@pytest.fixture
def processor() -> SimulatedProcessor:
    return simulators.processor()


@dataclasses.dataclass
class Vm:
    """A VM that the host has launched on the processor."""

    processor: SimulatedProcessor
    policy: GuestPolicy
    config: LaunchConfig
    measurement: bytes = b"m" * 48
    instance: InstanceKey = dataclasses.field(default_factory=InstanceKey)
    report_id: bytes = dataclasses.field(default_factory=lambda: secrets.token_bytes(32))

    def evidence(self, report_data: bytes) -> bytes:
        host_data = launch_config_hash(Technology.SIMULATED, self.config.encode())
        signed = (self.measurement, host_data, self.report_id, report_data)
        return self.processor.report(*signed).encode()

    def verify(self, evidence: bytes, expected: Expected) -> Any:
        return verify(Evidence.decode(evidence), self.policy.attest, expected, NOW)

    def own(self) -> OwnLaunch:
        report_data = attest_report_data(b"boot", self.instance.public)
        report = self.verify(self.evidence(report_data), Expected(report_data))
        return OwnLaunch.of(report, self.config.encode(), self.policy.digest, same_chip=True)


@pytest.fixture
def root(processor: Any) -> Vm:
    roots = [processor.root_fingerprint]
    text = guest_policy_toml(Technology.SIMULATED, "anyone", roots, BUILT)
    return Vm(processor, GuestPolicy.decode(text.encode()), LaunchConfig(Role.ROOT))


@pytest.fixture
def parent(root: Vm) -> ParentSession:
    lineage, slot = Lineage(root.instance.public), Slot(bytes(16), 0, 1)
    arguments = (root.own(), root.instance, lineage, slot, MANIFEST, root.verify)
    return ParentSession(*arguments, now=0.0, lifetime_s=600.0, image_key_lifetime_s=3600.0)


def child_vm(root: Vm, offer: bytes, **changes: object) -> Vm:
    config = LaunchConfig(Role.CHILD, None, hashlib.sha384(offer).digest())
    return Vm(root.processor, root.policy, config, **changes)  # type: ignore[arg-type]


def join_of(vm: Vm, offer: bytes) -> tuple[ChildSession, bytes]:
    session = ChildSession(vm.own(), vm.instance, vm.verify)
    need = only(session.receive_offer(offer), NeedEvidence)
    send = only(session.provide_evidence(vm.evidence(need.report_data)), Send)
    return session, send.message


def test_the_state_is_released_to_a_child_of_the_same_launch(
    root: Vm, parent: ParentSession
) -> None:
    session, join = join_of(child_vm(root, parent.offer), parent.offer)
    need = only(parent.receive_join(join, 1.0), NeedEvidence)
    send = only(parent.provide_evidence(root.evidence(need.report_data), 1.0), Send)
    released = only(session.receive_grant(send.message), ReleaseState)
    assert released.manifest == MANIFEST
    parent.receive_confirm(session.confirm())


@pytest.mark.parametrize(
    ("changes", "check"),
    [({"measurement": b"M" * 48}, "launch identity"), ({"report_id": None}, "report id")],
)
def test_a_child_that_is_not_another_vm_of_the_same_launch_fails(
    root: Vm, parent: ParentSession, changes: Any, check: str
) -> None:
    if "report_id" in changes:
        changes = {"report_id": root.report_id}
    _, join = join_of(child_vm(root, parent.offer, **changes), parent.offer)
    with pytest.raises(AttestationFailed, match=check):
        parent.receive_join(join, 1.0)


@pytest.mark.parametrize("same_chip", [True, False])
def test_a_child_on_another_chip_is_refused_where_the_policy_says_same(
    root: Vm, same_chip: bool
) -> None:
    """Both chips are genuine under the policy, the launch is the same: only the chip differs."""
    elsewhere = simulators.processor("two")
    roots = (root.processor.root_fingerprint, elsewhere.root_fingerprint)
    attest = msgspec.structs.replace(root.policy.attest, roots=roots)
    policy = replace(root.policy, attest=attest)
    here, there = (Vm(chip, policy, root.config) for chip in (root.processor, elsewhere))
    report = here.verify(here.evidence(bytes(64)), Expected(bytes(64)))
    own = OwnLaunch.of(report, here.config.encode(), policy.digest, same_chip=same_chip)
    expected = own.expect(bytes(64), there.config.encode())
    if same_chip:
        with pytest.raises(AttestationFailed, match="same chip"):
            there.verify(there.evidence(bytes(64)), expected)
    else:
        assert there.verify(there.evidence(bytes(64)), expected).verdict.passed


def test_a_bit_of_the_report_that_was_changed_fails(root: Vm, parent: ParentSession) -> None:
    _, join = join_of(child_vm(root, parent.offer), parent.offer)
    changed = bytearray(join)
    changed[REPORT_IN_JOIN + 0x90] ^= 1  # the measurement: SNP ABI, ATTESTATION_REPORT
    with pytest.raises(AttestationFailed, match="signature"):
        parent.receive_join(bytes(changed), 1.0)


@pytest.fixture
def warm_parent(root: Vm) -> ParentSession:
    lineage, slot = Lineage(root.instance.public), Slot(bytes(16), 0, 1)
    arguments = (root.own(), root.instance, lineage, slot, MANIFEST, root.verify)
    return ParentSession(
        *arguments,
        now=0.0,
        lifetime_s=600.0,
        image_key_lifetime_s=3600.0,
        warm=True,
        warm_lifetime_s=86400.0,
    )


def called(root: Vm, parent: ParentSession, vm: Vm) -> tuple[ChildSession, bytes]:
    """A warm child that was called, and the report data that its ANSWER needs."""
    session, join = join_of(vm, parent.offer)
    need = only(parent.receive_join(join, 1.0), NeedEvidence)
    grant = only(parent.provide_evidence(root.evidence(need.report_data), 1.0), Send)
    assert only(session.receive_grant(grant.message), HoldState).manifest == MANIFEST
    parent.receive_confirm(session.confirm())
    call = parent.call(Slot(b"f" * 16, 2, 1), MANIFEST, 2.0)
    return session, only(session.receive_call(call), NeedEvidence).report_data


def test_a_warm_child_is_activated_with_new_evidence(root: Vm, warm_parent: ParentSession) -> None:
    vm = child_vm(root, warm_parent.offer)
    session, report_data = called(root, warm_parent, vm)
    answer = only(session.provide_evidence(vm.evidence(report_data)), Send)
    activate = only(warm_parent.receive_answer(answer.message, 3.0), Send)
    released = only(session.receive_activate(activate.message), ReleaseState)
    assert released.lineage.certificates[-1].child_index == 2
    warm_parent.receive_confirm(session.confirm())


def test_a_vm_that_boots_again_under_the_same_offer_is_not_the_one_that_joined(
    root: Vm, warm_parent: ParentSession
) -> None:
    """Genuine in every respect but the report id, which the processor draws at each launch."""
    vm = child_vm(root, warm_parent.offer)
    session, report_data = called(root, warm_parent, vm)
    again = dataclasses.replace(vm, report_id=b"r" * 32)
    answer = only(session.provide_evidence(again.evidence(report_data)), Send)
    with pytest.raises(AttestationFailed, match="not that of the VM that has joined"):
        warm_parent.receive_answer(answer.message, 3.0)
