"""The life of one OFFER, as it should go."""

from __future__ import annotations

import weakref
from typing import Any

import pytest

from sevfork.errors import RefusedByGuest, WrongState
from sevfork.handshake import (
    EventKind,
    EventReceived,
    Manifest,
    NeedEvidence,
    OwnerCertificate,
    Send,
)
from sevfork.handshake import child as handshake_child
from sevfork.handshake import keys as handshake_keys
from sevfork.handshake import parent as handshake_parent
from tests.support.fake_family import Family, Fork, inside, only


def test_a_child_receives_the_state_that_was_offered(fork: Fork, manifest: Manifest) -> None:
    released = fork.release()
    assert released.manifest == manifest
    assert released.generation == 1
    assert released.lineage.keys == (fork.root.instance.public, fork.guest.instance.public)


def test_a_confirm_names_the_child(fork: Fork) -> None:
    fork.release()
    assert fork.confirm().instance_key == fork.guest.instance.public


def test_events_arrive_in_order_in_both_directions(fork: Fork) -> None:
    fork.release()
    fork.confirm()
    for sequence, detail in enumerate((b"hooks", b"", b"x" * 1024)):
        event = only(
            fork.parent.receive_event(fork.child.event(EventKind.HOOKS_PASSED, detail)),
            EventReceived,
        )
        assert (event.sequence, event.detail) == (sequence, detail)
        back = only(
            fork.child.receive_event(fork.parent.event(EventKind.ABANDONED, detail)), EventReceived
        )
        assert (back.sequence, back.kind, back.detail) == (sequence, EventKind.ABANDONED, detail)


def test_a_child_whose_restore_fails_says_so_without_confirming(fork: Fork) -> None:
    fork.release()
    event = only(
        fork.parent.receive_event(fork.child.event(EventKind.FAILED, b"criu")), EventReceived
    )
    assert event.kind is EventKind.FAILED


def test_a_detail_that_is_too_long_is_cut(fork: Fork) -> None:
    fork.release()
    event = only(
        fork.parent.receive_event(fork.child.event(EventKind.FAILED, b"x" * 5000)), EventReceived
    )
    assert event.detail == b"x" * 1024


def test_a_child_can_be_forked_in_its_turn(owned: Family) -> None:
    first = owned.fork()
    lineage = first.release().lineage
    second = owned.fork(first.guest, lineage)
    released = second.release()
    assert released.generation == 2
    assert released.lineage.keys == (
        owned.root.instance.public,
        first.guest.instance.public,
        second.guest.instance.public,
    )
    released.lineage.verify(owned.owner_digest)


def test_one_capture_serves_two_children_by_two_offers(family: Family) -> None:
    forks = [family.fork(), family.fork()]
    assert forks[0].offer != forks[1].offer
    first, second = (fork.release() for fork in forks)
    assert first.manifest == second.manifest
    assert first.lineage.keys[0] == second.lineage.keys[0]
    assert first.lineage.keys[1] != second.lineage.keys[1]


def test_a_lost_grant_is_sent_again_byte_for_byte(fork: Fork) -> None:
    join = fork.join()
    grant = fork.grant(join)
    again = only(fork.parent.receive_join(join, 2.0), Send)
    assert again.message == grant
    fork.child.receive_grant(grant)


def test_the_same_join_while_evidence_is_awaited_asks_for_the_same_evidence(fork: Fork) -> None:
    join = fork.join()
    assert fork.parent.receive_join(join, 1.0) == fork.parent.receive_join(join, 2.0)


def test_a_lost_join_is_sent_again_byte_for_byte(fork: Fork) -> None:
    join = fork.join()
    again = only(fork.child.receive_offer(fork.offer), Send)
    assert again.message == join


def test_the_same_offer_before_the_evidence_asks_for_the_same_evidence(fork: Fork) -> None:
    assert fork.child.receive_offer(fork.offer) == fork.child.receive_offer(fork.offer)


def test_private_keys_are_erased_when_spent_before_the_grant_exists(fork: Fork) -> None:
    keys = weakref.ref(inside(fork.parent).keys)
    assert keys() is not None
    fork.parent.receive_join(fork.join(), 1.0)
    assert fork.parent.spent
    assert keys() is None


def test_shared_secrets_and_the_manifest_are_erased_when_the_grant_is_made(fork: Fork) -> None:
    need = only(fork.parent.receive_join(fork.join(), 1.0), NeedEvidence)
    secrets = weakref.ref(inside(fork.parent).secrets)
    assert secrets() is not None
    fork.parent.provide_evidence(fork.root.evidence(need.report_data), 1.0)
    assert secrets() is None
    assert not hasattr(inside(fork.parent), "manifest")


def test_the_childs_shared_secrets_are_erased_when_the_grant_is_used(fork: Fork) -> None:
    grant = fork.grant()
    secrets = weakref.ref(inside(fork.child).secrets)
    assert secrets() is not None
    fork.child.receive_grant(grant)
    assert secrets() is None


@pytest.mark.parametrize("moment", ["offered", "granting"])
def test_an_expired_offer_erases_its_keys(fork: Fork, moment: str) -> None:
    join = fork.join()
    if moment == "granting":
        fork.parent.receive_join(join, 599.0)
    state = weakref.ref(inside(fork.parent))
    assert not fork.parent.expire(599.9)
    assert fork.parent.expire(600.0)
    assert state() is None
    with pytest.raises(RefusedByGuest, match="expired"):
        fork.parent.receive_join(join, 0.0)


def test_an_abandoned_offer_erases_everything(fork: Fork) -> None:
    fork.release()
    state = weakref.ref(inside(fork.parent))
    fork.parent.abandon()
    assert state() is None
    with pytest.raises(RefusedByGuest, match="abandoned"):
        fork.parent.receive_join(fork.guest.instance.public, 1.0)
    with pytest.raises(WrongState):
        fork.parent.receive_confirm(fork.child.confirm())


def test_a_child_that_was_granted_in_time_may_confirm_after_the_offers_time(fork: Fork) -> None:
    fork.release()
    assert not fork.parent.expire(3599.0)
    assert fork.confirm().instance_key == fork.guest.instance.public
    assert not fork.parent.expire(10_000.0), "a child that has confirmed goes on sending events"


def test_a_grant_that_is_not_confirmed_in_the_image_keys_time_is_erased(fork: Fork) -> None:
    join = fork.join()
    fork.child.receive_grant(fork.grant(join))
    state = weakref.ref(inside(fork.parent))
    assert fork.parent.expire(3600.0)
    assert state() is None
    with pytest.raises(RefusedByGuest, match="not confirmed in time"):
        fork.parent.receive_join(join, 0.0)
    with pytest.raises(WrongState):
        fork.parent.receive_confirm(fork.child.confirm())


def test_an_offer_does_not_outlive_its_image_key(family: Family) -> None:
    parent = family.parent(lifetime_s=600.0, image_key_lifetime_s=60.0)
    assert not parent.expire(59.0)
    assert parent.expire(60.0)


def test_the_key_that_opens_the_grant_is_erased_on_both_sides_when_it_is_used(
    fork: Fork, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[weakref.ref[object]] = []
    derive = handshake_keys.derive_boxes

    def watched(peer: Any, **exchange: Any) -> Any:
        boxes = derive(peer, **exchange)
        keys.append(weakref.ref(boxes.grant))
        return boxes

    for side in (handshake_parent, handshake_child):
        monkeypatch.setattr(side, "derive_boxes", watched)
    fork.release()
    assert [key() for key in keys] == [None, None]
    fork.confirm()


def test_no_secret_is_shown_by_repr(fork: Fork, manifest: Manifest) -> None:
    released = fork.release()
    shown = repr((inside(fork.parent), inside(fork.child), released, manifest))
    key = manifest.layers[0].image_key
    assert repr(key) not in shown
    assert key.hex() not in shown


def test_the_owner_can_certify_the_root_with_an_offline_key(owned: Family) -> None:
    lineage = owned.lineage
    assert isinstance(lineage.owner_certificate, OwnerCertificate)
    lineage.verify(owned.owner_digest)


def test_without_one_chip_in_the_policy_a_child_may_be_elsewhere() -> None:
    family = Family(same_chip=False)
    fork = family.fork(chip_id=b"d" * 64, same_chip=False)
    assert fork.release().generation == 1
