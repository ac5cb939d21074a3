"""What a guest refuses about itself, and what nobody gets without a verified report."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from sevfork.attest.verdict import VerifiedReport
from sevfork.attest.verify import Expected
from sevfork.errors import AttestationFailed
from sevfork.handshake import (
    OwnLaunch,
)
from sevfork.handshake.keys import SharedSecrets, derive_boxes
from sevfork.handshake.launch import LaunchConfig, Role
from sevfork.technology import Technology
from tests.support.fake_family import Family, Guest


def test_host_that_hands_over_another_launch_config_is_refused(family: Family) -> None:
    root = family.root
    report = family.processor.verify(root.evidence(bytes(64)), expect_of(root))
    lie = LaunchConfig(Role.CHILD, None, b"x" * 48).encode()
    with pytest.raises(AttestationFailed, match="not the one that was launched"):
        OwnLaunch.of(report, lie, root.policy_digest, same_chip=True)


def expect_of(guest: Guest) -> Expected:
    own = guest.own()
    return replace(own.expect(bytes(64), guest.launch_config), other_than_report_id=b"another")


def test_report_without_a_report_id_cannot_tell_instances_apart(family: Family) -> None:
    with pytest.raises(AttestationFailed, match="report id"):
        family.launch(LaunchConfig(Role.ROOT), report_id=None).own()


def test_report_that_masks_its_chip_cannot_satisfy_a_one_chip_policy(family: Family) -> None:
    with pytest.raises(AttestationFailed, match="names none"):
        family.launch(LaunchConfig(Role.ROOT), chip_id=bytes(64)).own()


def test_report_that_masks_its_chip_satisfies_a_policy_that_asks_for_none(family: Family) -> None:
    guest = family.launch(LaunchConfig(Role.ROOT), chip_id=bytes(64), same_chip=False)
    assert guest.own().peer_chip_id is None


def test_tdx_has_no_report_id_and_its_instances_differ_by_their_keys() -> None:
    how: dict[str, Any] = {"technology": Technology.TDX, "report_id": None, "same_chip": False}
    family = Family(**how)
    assert family.fork(**how).release().generation == 1


# The ladder: bytes -> report -> verified report -> key.


def test_nothing_but_verify_makes_a_verified_report() -> None:
    with pytest.raises(TypeError):
        VerifiedReport()


@pytest.mark.parametrize("peer", [None, object(), b"report"])
def test_no_key_without_a_verified_report(peer: Any) -> None:
    with pytest.raises(AttestationFailed):
        derive_boxes(peer, report_data=bytes(64), secrets=SharedSecrets(b"", b""), t2=bytes(48))


def test_no_key_for_the_verified_report_of_another_exchange(family: Family) -> None:
    report = family.processor.verify(family.root.evidence(bytes(64)), expect_of(family.root))
    with pytest.raises(AttestationFailed, match="not of this exchange"):
        derive_boxes(report, report_data=b"x" * 64, secrets=SharedSecrets(b"", b""), t2=bytes(48))
