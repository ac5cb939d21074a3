"""What a host, another VM or a parent gone bad may try with a warm child."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from sevfork.errors import AttestationFailed, NotAuthentic, RefusedByGuest, WrongState
from sevfork.handshake import (
    EventKind,
    InstanceKey,
    Manifest,
    NeedEvidence,
    ReleaseState,
    Slot,
    manifest_digest,
)
from sevfork.handshake.codec import MessageKind, head
from sevfork.handshake.keys import Box, EcdhKey
from sevfork.handshake.messages import Grant, GrantContent, Offer
from sevfork.handshake.warm_messages import Activate, Call, Update
from sevfork.wire.lp import lp
from tests.support.fake_family import MANIFEST, CompromisedParent, Family, Fork, flip, inside, only
from tests.support.fake_warm import CURRENT, PLACE, UPDATED, WarmFork, extended


@pytest.fixture
def warm(family: Family) -> WarmFork:
    return WarmFork.holding(family)


def refuses_activate(fork: WarmFork, activate: bytes, reason: str = "does not open") -> None:
    with pytest.raises(NotAuthentic, match=reason):
        fork.child.receive_activate(activate)


# The GRANT.


def test_a_warm_grant_gives_no_lineage_and_releases_nothing(family: Family) -> None:
    fork = WarmFork.of(family)
    assert not isinstance(fork.hold(), ReleaseState)
    assert not hasattr(inside(fork.child), "lineage")


def test_a_cold_grants_box_cannot_pass_for_a_warm_one_nor_the_other_way_round(
    family: Family,
) -> None:
    """What kind it is stands inside of the box: no byte outside of it says so."""
    for fork in (WarmFork.of(family), family.fork()):
        grant = fork.grant()
        box = Grant.decode(grant).box
        for position in range(len(grant) - len(box), len(grant) - len(box) + 4):
            with pytest.raises(NotAuthentic, match="does not open"):
                fork.child.receive_grant(flip(grant, position))
        fork.child.receive_grant(grant)


def test_a_warm_grant_with_another_manifest_than_the_offers_is_rejected(family: Family) -> None:
    fork = WarmFork.of(family)
    grant = CompromisedParent(fork).grant(manifest=CURRENT.encode())
    with pytest.raises(NotAuthentic, match="grant: the manifest is not the one"):
        fork.child.receive_grant(grant)


def test_a_warm_child_takes_neither_a_second_grant_nor_its_offer_again(family: Family) -> None:
    fork = WarmFork.of(family)
    grant = fork.grant()
    fork.child.receive_grant(grant)
    with pytest.raises(WrongState, match="not waiting"):
        fork.child.receive_grant(grant)
    with pytest.raises(RefusedByGuest, match="used its GRANT"):
        fork.child.receive_offer(fork.offer)


# UPDATEs.


def test_update_that_is_repeated_is_rejected(warm: WarmFork) -> None:
    update = warm.parent.update(UPDATED, 2.0)
    warm.child.receive_update(update)
    with pytest.raises(NotAuthentic, match="got number 0, wanted 1"):
        warm.child.receive_update(update)


def test_update_after_a_gap_is_rejected(warm: WarmFork) -> None:
    warm.parent.update(UPDATED, 2.0)
    with pytest.raises(NotAuthentic, match="got number 1, wanted 0"):
        warm.child.receive_update(warm.parent.update(CURRENT, 2.0))


def test_old_update_renumbered_as_the_next_one_does_not_open(warm: WarmFork) -> None:
    old = warm.parent.update(UPDATED, 2.0)
    warm.child.receive_update(old)
    with pytest.raises(NotAuthentic, match="does not open"):
        warm.child.receive_update(Update(1, Update.decode(old).box).encode())
    assert warm.update(CURRENT).manifest == CURRENT


def test_update_of_another_warm_child_does_not_open(family: Family, warm: WarmFork) -> None:
    other = WarmFork.holding(family)
    with pytest.raises(NotAuthentic, match="does not open"):
        warm.child.receive_update(other.parent.update(UPDATED, 2.0))


def test_changed_update_is_rejected_and_the_true_one_still_works(warm: WarmFork) -> None:
    update = warm.parent.update(UPDATED, 2.0)
    for position in (0, 1, 2, 11, 12, 100, len(update) - 1):
        with pytest.raises(NotAuthentic):
            warm.child.receive_update(flip(update, position))
    warm.child.receive_update(update)


@pytest.mark.parametrize(
    "content",
    [
        lp(MANIFEST.encode()) + b"x",
        MANIFEST.encode(),
        lp(b""),
        lp(b"\1\7\0\0"),
        lp(GrantContent(MANIFEST.encode(), b"").encode()),
    ],
    ids=["trailing", "no LP", "nothing", "no layers", "a GRANT's content"],
)
def test_update_that_holds_no_manifest_is_rejected(warm: WarmFork, content: bytes) -> None:
    """From a parent that has gone bad: the box is genuine."""
    box: Box = inside(warm.parent).child.keys.update
    with pytest.raises(NotAuthentic):
        warm.child.receive_update(Update(0, box.seal(content)).encode())


def test_event_passed_off_as_an_update_does_not_open(warm: WarmFork) -> None:
    sealed = warm.parent.event(EventKind.EXITED, b"detail")[12:]
    with pytest.raises(NotAuthentic, match="does not open"):
        warm.child.receive_update(Update(0, sealed).encode())


def test_update_after_a_call_is_refused_on_both_sides(warm: WarmFork) -> None:
    early = warm.parent.update(UPDATED, 2.0)
    call = warm.call()
    with pytest.raises(WrongState, match="update"):
        warm.parent.update(CURRENT, 4.0)
    warm.child.receive_call(call)
    with pytest.raises(WrongState, match="update"):
        warm.child.receive_update(early)
    warm.parent.withdraw()
    with pytest.raises(WrongState, match="update"):
        warm.parent.update(CURRENT, 4.0)


def test_update_call_and_activate_are_nothing_for_a_cold_child(fork: Fork, warm: WarmFork) -> None:
    messages = warm.parent.update(UPDATED, 2.0), warm.call(), warm.activate()
    for step in (lambda: None, fork.join, lambda: fork.child.receive_grant(fork.grant())):
        step()
        receive = fork.child.receive_update, fork.child.receive_call, fork.child.receive_activate
        for act, message in zip(receive, messages, strict=True):
            with pytest.raises(WrongState):
                act(message)


def test_update_before_the_child_has_confirmed_is_not_made(family: Family) -> None:
    fork = WarmFork.of(family)
    fork.hold()
    with pytest.raises(WrongState):
        fork.parent.update(UPDATED, 2.0)
    with pytest.raises(WrongState):
        fork.parent.call(PLACE, CURRENT, 2.0)


# CALLs.


def test_call_before_the_child_has_confirmed_is_refused(family: Family) -> None:
    """Were it taken, the CONFIRM that the parent waits for would come of an unfinished unseal."""
    fork = WarmFork.of(family)
    fork.hold()
    hostile = Call(bytes(32), EcdhKey().share, bytes(16), 0, 1, bytes(48)).encode()
    with pytest.raises(WrongState, match="has not confirmed"):
        fork.child.receive_call(hostile)
    fork.confirm()
    assert fork.release().manifest == CURRENT


@pytest.mark.parametrize("share", [b"\4" + bytes(96), b"\2" + bytes(96), bytes(97)])
def test_call_with_a_share_that_is_no_point_changes_nothing(warm: WarmFork, share: bytes) -> None:
    call = warm.call()
    answer = warm.answer(call)
    hostile = replace(Call.decode(call), share=share).encode()
    with pytest.raises(NotAuthentic, match="no point"):
        warm.child.receive_call(hostile)
    assert warm.child.receive_activate(warm.activate(answer))


def test_call_of_the_hosts_own_gets_an_answer_that_convinces_no_parent(warm: WarmFork) -> None:
    call = warm.call()
    hostile = replace(Call.decode(call), share=EcdhKey().share).encode()
    with pytest.raises(AttestationFailed, match="report data"):
        warm.parent.receive_answer(warm.answer(hostile), 4.0)
    assert warm.child.receive_activate(warm.activate(warm.answer(call)))


@pytest.mark.parametrize(
    "change",
    [
        {"fork_id": b"F" * 16},
        {"child_index": 7},
        {"generation": 9},
        {"manifest_digest": manifest_digest(UPDATED.encode())},
        {"nonce": b"n" * 32},
    ],
    ids=lambda change: next(iter(change)),
)
def test_call_changed_on_the_way_moves_no_child(warm: WarmFork, change: Any) -> None:
    """Neither with what the parent makes of the true CALL, nor for the parent."""
    changed = replace(Call.decode(warm.call()), **change).encode()
    with pytest.raises(AttestationFailed, match="report data"):
        warm.parent.receive_answer(warm.answer(changed), 4.0)


def test_every_single_bit_of_a_call_matters(warm: WarmFork) -> None:
    call = warm.call()
    for position in range(len(call)):
        try:
            warm.child.receive_call(flip(call, position))
        except NotAuthentic:
            continue
        changed = inside(warm.child)
        warm.child.receive_call(call)
        assert inside(warm.child).t3 != changed.t3


# ACTIVATE.


def test_a_warm_child_is_not_activated_twice(warm: WarmFork) -> None:
    activate = warm.activate()
    warm.child.receive_activate(activate)
    with pytest.raises(WrongState, match="not waiting"):
        warm.child.receive_activate(activate)
    with pytest.raises(WrongState, match="not kept warm"):
        warm.child.receive_call(warm_call())


def warm_call() -> bytes:
    return Call(bytes(32), EcdhKey().share, bytes(16), 0, 1, bytes(48)).encode()


def test_activate_before_the_answer_is_refused(family: Family, warm: WarmFork) -> None:
    activate = WarmFork.holding(family).activate()
    with pytest.raises(WrongState, match="not waiting"):
        warm.child.receive_activate(activate)
    only(warm.child.receive_call(warm.call()), NeedEvidence)
    with pytest.raises(WrongState, match="not waiting"):
        warm.child.receive_activate(activate)


def test_activate_of_another_warm_child_in_the_same_place_does_not_open(
    family: Family, warm: WarmFork
) -> None:
    """Even if a parent called both into one slot with one manifest."""
    other = WarmFork.holding(family)
    activate = other.activate()
    warm.answer()
    refuses_activate(warm, activate)


def test_activate_replayed_after_a_new_call_does_not_open(warm: WarmFork) -> None:
    """The child has answered a CALL of the host's since: the ACTIVATE is of another ANSWER."""
    activate = warm.activate()
    warm.answer(warm_call())
    refuses_activate(warm, activate)


def test_activate_for_one_answer_does_not_open_after_another_to_the_same_call(
    warm: WarmFork,
) -> None:
    """A child that forgot its ANSWER makes another, with another share: it is lost, not doubled."""
    call = warm.call()
    first = warm.answer(call)
    warm.answer(warm_call())
    second = warm.answer(call)
    assert first != second
    refuses_activate(warm, warm.activate(first))


def test_changed_activate_is_rejected_and_the_true_one_still_works(warm: WarmFork) -> None:
    activate = warm.activate()
    for position in (0, 1, 2, 5, 8, 100, len(activate) - 1):
        with pytest.raises(NotAuthentic):
            warm.child.receive_activate(flip(activate, position))
    warm.child.receive_activate(activate)


def test_grants_box_passed_off_as_an_activate_does_not_open(family: Family) -> None:
    fork = WarmFork.of(family)
    grant = fork.grant()
    fork.child.receive_grant(grant)
    fork.confirm()
    fork.answer()
    refuses_activate(fork, Activate(Grant.decode(grant).box).encode())


def test_update_passed_off_as_an_activate_does_not_open(warm: WarmFork) -> None:
    update = warm.parent.update(CURRENT, 2.0)
    warm.answer()
    refuses_activate(warm, Activate(Update.decode(update).box).encode())


# A parent that has gone bad, or whose K has leaked.


@pytest.mark.parametrize(
    "other",
    [
        UPDATED,
        Manifest((*UPDATED.layers, *extended(UPDATED, b"3").layers[-1:])),
        Manifest((CURRENT.layers[0], CURRENT.layers[2])),
        Manifest(tuple(reversed(CURRENT.layers))),
    ],
    ids=["old delta", "layer of another chain", "layer left out", "other order"],
)
def test_another_chain_than_the_call_has_promised_is_rejected(
    warm: WarmFork, other: Manifest
) -> None:
    warm.update()
    answer = warm.answer()
    CompromisedParent(warm).promises(manifest=other.encode())
    refuses_activate(warm, warm.activate(answer), "the manifest is not the one")


@pytest.mark.parametrize(
    "change",
    [
        {"fork_id": b"F" * 16},
        {"child_index": 7},
        {"generation": 9},
        {"manifest_digest": manifest_digest(UPDATED.encode())},
    ],
    ids=lambda change: next(iter(change)),
)
def test_certificate_for_another_place_than_the_calls_is_rejected(
    warm: WarmFork, change: Any
) -> None:
    CompromisedParent(warm).certifies(**change)
    refuses_activate(warm, warm.activate(), "another fork or place")


def test_certificate_for_the_offers_place_is_none_for_the_calls(warm: WarmFork) -> None:
    offered = Offer.decode(warm.offer)
    CompromisedParent(warm).certifies(fork_id=offered.fork_id, child_index=offered.child_index)
    refuses_activate(warm, warm.activate(), "another fork or place")


def test_certificate_for_another_child_than_the_one_called_is_rejected(
    family: Family, warm: WarmFork
) -> None:
    other = family.child_of(warm.offer).instance.public
    CompromisedParent(warm).certifies(child=other)
    refuses_activate(warm, warm.activate(), "another child")


def test_whoever_has_k_but_not_the_parents_instance_key_activates_nothing(warm: WarmFork) -> None:
    """All keys have leaked, and the host speaks for the parent: it cannot certify a child."""
    thief, parent = InstanceKey(), CompromisedParent(warm)
    parent.claims(root_key=thief.public)
    parent.certifies(thief, parent=thief.public)
    refuses_activate(warm, warm.activate(), "another child")


def test_activate_without_a_certificate_for_the_child_is_rejected(warm: WarmFork) -> None:
    CompromisedParent(warm).certifies_nothing()
    refuses_activate(warm, warm.activate(), "no certificate")


def test_activate_without_the_owners_certificate_is_rejected(owned: Family) -> None:
    warm = WarmFork.holding(owned)
    CompromisedParent(warm).claims(owner_certificate=None)
    refuses_activate(warm, warm.activate(), "missing")


def test_activate_of_a_root_that_claims_a_descent_is_rejected(family: Family) -> None:
    first = family.fork()
    lineage = first.release().lineage
    warm = WarmFork.holding(family)
    parent = CompromisedParent(warm)
    parent.claims(root_key=family.root.instance.public, certificates=lineage.certificates)
    parent.certifies(first.guest.instance, parent=first.guest.instance.public, generation=2)
    call = warm.call(Slot(PLACE.fork_id, PLACE.child_index, 2))
    refuses_activate(warm, warm.activate(warm.answer(call)), "does not fit how the parent")


@pytest.mark.parametrize("kind", [MessageKind.GRANT_CONTENT, MessageKind.WARM_GRANT_CONTENT])
def test_box_of_an_activate_that_holds_a_grants_content_is_rejected(
    warm: WarmFork, kind: MessageKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal = Box.seal

    def sealed(box: Box, plaintext: bytes) -> bytes:
        return seal(box, head(kind) + plaintext[4:])

    answer = warm.answer()
    monkeypatch.setattr(Box, "seal", sealed)
    activate = warm.activate(answer)
    refuses_activate(warm, activate, "kind")


def test_an_activate_that_was_refused_leaves_the_child_waiting_for_the_true_one(
    family: Family, warm: WarmFork
) -> None:
    answer = warm.answer()
    refuses_activate(warm, WarmFork.holding(family).activate())
    assert warm.child.receive_activate(warm.activate(answer))
