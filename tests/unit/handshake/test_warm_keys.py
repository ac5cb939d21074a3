"""What a warm child is spoken to under, computed once more from the specification's text."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sevfork.errors import AttestationFailed, NotAuthentic
from sevfork.handshake import EventKind, Lineage
from sevfork.handshake.keys import EcdhKey, derive_active_boxes
from sevfork.handshake.messages import Grant, Join
from sevfork.handshake.transcript import answer_report_data, transcript_4
from sevfork.handshake.warm_messages import Activate, Answer, Update
from tests.support.fake_family import MANIFEST, Family, inside
from tests.support.fake_warm import CURRENT, UPDATED, WarmFork


def lp(*values: bytes) -> bytes:
    return b"".join(len(value).to_bytes(4, "big") + value for value in values)


def extract(salt: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt, ikm, "sha384")


def expand(key: bytes, label: str) -> bytes:
    return hmac.digest(key, f"sevfork/1 {label}".encode() + b"\x01", "sha384")[:32]


def opened(key: bytes, label: str, box: bytes, transcript: bytes, sequence: int = 0) -> bytes:
    nonce = bytes(4) + sequence.to_bytes(8, "big")
    return AESGCM(expand(key, label)).decrypt(nonce, box, transcript)


@pytest.fixture
def warm(family: Family) -> WarmFork:
    return WarmFork.of(family)


def test_every_box_opens_with_keys_computed_from_the_specification(warm: WarmFork) -> None:
    join = Join.decode(warm.join())
    secrets = inside(warm.child).secrets
    grant = Grant.decode(warm.grant())
    t1 = hashlib.sha384(lp(b"sevfork/1 T1", warm.offer, join.core)).digest()
    t2 = hashlib.sha384(lp(b"sevfork/1 T2", t1, join.evidence, grant.evidence)).digest()
    key = extract(t2, lp(secrets.ecdh, secrets.kem))
    assert opened(key, "grant", grant.box, t2) == b"\1\x0d\0\0" + lp(MANIFEST.encode())

    warm.child.receive_grant(grant.encode())
    warm.confirm()
    updates = [Update.decode(warm.parent.update(chain, 2.0)) for chain in (UPDATED, CURRENT)]
    for sequence, chain in enumerate((UPDATED, CURRENT)):
        box = updates[sequence].box
        assert updates[sequence].sequence == sequence
        assert opened(key, "update", box, t2, sequence) == lp(chain.encode())

    call = warm.call()
    answer = Answer.decode(warm.answer(call))
    ecdh = inside(warm.child).ecdh
    assert len(ecdh) == 48
    t3 = hashlib.sha384(lp(b"sevfork/1 T3", t2, call, answer.core)).digest()
    t4 = hashlib.sha384(lp(b"sevfork/1 T4", t3, answer.evidence)).digest()
    key = extract(t4, lp(expand(key, "resume"), ecdh))
    activate = Activate.decode(warm.activate(answer.encode()))
    content = opened(key, "activate", activate.box, t4)
    assert content.startswith(b"\1\x12\0\0" + lp(CURRENT.encode()))
    lineage = Lineage.decode(content[4 + 4 + len(CURRENT.encode()) + 4 :])
    assert lineage.keys[-1] == warm.guest.instance.public

    warm.child.receive_activate(activate.encode())
    assert opened(key, "confirm", warm.child.confirm()[4:], t4) == b""
    event, back = warm.child.event(EventKind.EXITED), warm.parent.event(EventKind.FAILED)
    assert opened(key, "event", event[12:], t4) == b"\4"
    assert opened(key, "parent event", back[12:], t4) == b"\3"


@pytest.mark.parametrize("lost", ["resume", "ecdh"])
def test_neither_a_k_that_leaked_nor_a_broken_exchange_opens_an_activate_alone(
    warm: WarmFork, lost: str
) -> None:
    """With one of the two secrets known, and the other not, K3 is still another."""
    warm.hold()
    warm.confirm()
    answer = Answer.decode(warm.answer())
    state = inside(warm.child)
    known = {"resume": state.held.keys.resume, "ecdh": state.ecdh}
    box = Activate.decode(warm.activate(answer.encode())).box
    t4 = transcript_4(state.t3, answer.evidence)
    peer, report_data = state.held.parent, state.held.report_data

    def boxes(resume: bytes, ecdh: bytes) -> bytes:
        derived = derive_active_boxes(
            peer, report_data=report_data, resume=resume, ecdh=ecdh, t4=t4
        )
        return derived.activate.open(box)

    assert boxes(**known)
    guessed = {**known, lost: bytes(len(known[lost]))}
    with pytest.raises(NotAuthentic, match="does not open"):
        boxes(**guessed)


def test_k3_is_made_of_a_report_over_this_answer_and_of_nothing_else(warm: WarmFork) -> None:
    """The type ladder: claims are no report, and the JOIN's report is none for an ANSWER."""
    warm.hold()
    warm.confirm()
    joined, t3 = inside(warm.parent).child.report, bytes(48)
    for peer in (joined, None, object()):
        with pytest.raises(AttestationFailed, match="not of this exchange"):
            derive_active_boxes(
                peer,  # type: ignore[arg-type]
                report_data=answer_report_data(t3),
                resume=bytes(32),
                ecdh=bytes(48),
                t4=bytes(48),
            )


def test_two_activations_of_one_k_have_nothing_in_common(family: Family, warm: WarmFork) -> None:
    """A second CALL to the same child, both before an ANSWER: other T3, other share, other key."""
    warm.hold()
    warm.confirm()
    warm.answer()
    first = inside(warm.child)
    warm.answer()
    second = inside(warm.child)
    assert first.t3 != second.t3
    assert first.ecdh != second.ecdh
    assert first.held is second.held


def test_both_sides_of_a_call_agree() -> None:
    parent, child = EcdhKey(), EcdhKey()
    assert parent.agree(child.share) == child.agree(parent.share)
