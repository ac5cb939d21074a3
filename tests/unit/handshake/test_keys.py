"""Report data, transcripts and keys, computed once more from the specification's text."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from sevfork.errors import NotAuthentic
from sevfork.handshake import Manifest, attest_report_data
from sevfork.handshake.keys import Box, JoinKeys, OfferKeys, derive_boxes
from sevfork.handshake.messages import EventKind, Grant, GrantContent, Join
from sevfork.handshake.transcript import (
    answer_report_data,
    child_report_data,
    parent_report_data,
    transcript_1,
    transcript_2,
    transcript_3,
    transcript_4,
)
from tests.support.fake_family import Fork, inside

parts = st.binary(max_size=80)


def lp(*values: bytes) -> bytes:
    return b"".join(len(value).to_bytes(4, "big") + value for value in values)


def hkdf_extract(salt: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt, ikm, "sha384")


def hkdf_expand(key: bytes, info: bytes) -> bytes:
    return hmac.digest(key, info + b"\x01", "sha384")[:32]


def test_transcripts_and_report_data_are_those_of_the_specification() -> None:
    t1 = hashlib.sha384(lp(b"sevfork/1 T1", b"offer", b"core")).digest()
    t2 = hashlib.sha384(lp(b"sevfork/1 T2", t1, b"join", b"grant")).digest()
    child = hashlib.sha512(lp(b"sevfork/1 child", t1)).digest()
    joined = hashlib.sha384(b"join").digest()
    assert transcript_1(b"offer", b"core") == t1
    assert transcript_2(t1, b"join", b"grant") == t2
    assert child_report_data(t1) == child
    parent = hashlib.sha512(lp(b"sevfork/1 parent", t1, joined)).digest()
    assert parent_report_data(t1, b"join") == parent
    t3 = hashlib.sha384(lp(b"sevfork/1 T3", t2, b"call", b"core")).digest()
    assert transcript_3(t2, b"call", b"core") == t3
    t4 = hashlib.sha384(lp(b"sevfork/1 T4", t3, b"answer")).digest()
    assert transcript_4(t3, b"answer") == t4
    assert answer_report_data(t3) == hashlib.sha512(lp(b"sevfork/1 answer", t3)).digest()
    attest = hashlib.sha512(lp(b"sevfork/1 attest", b"nonce", b"claims")).digest()
    assert attest_report_data(b"nonce", b"claims") == attest


@given(nonce=parts, claims=parts, t1=st.binary(min_size=48, max_size=48))
def test_attests_report_data_can_never_equal_a_childs(
    nonce: bytes, claims: bytes, t1: bytes
) -> None:
    labels = (b"sevfork/1 child", lp(b"sevfork/1 child"), lp(b"sevfork/1 child", t1), t1, nonce)
    for chosen in labels:
        for other in (claims, t1, b""):
            mine = attest_report_data(chosen, other)
            assert mine != child_report_data(t1)
            assert mine != parent_report_data(t1, other)
            assert mine != answer_report_data(t1)


@given(first=st.tuples(parts, parts), second=st.tuples(parts, parts))
def test_no_two_ways_to_split_the_same_bytes_give_the_same_report_data(
    first: tuple[bytes, bytes], second: tuple[bytes, bytes]
) -> None:
    same = attest_report_data(*first) == attest_report_data(*second)
    assert same == (first == second)


def test_the_callers_bytes_never_stand_in_report_data(fork: Fork) -> None:
    nonce = bytes(range(64))
    assert nonce[:16] not in attest_report_data(nonce, nonce)


def test_the_grant_opens_with_keys_computed_from_the_specification(
    fork: Fork, manifest: Manifest
) -> None:
    join = Join.decode(fork.join())
    secrets = inside(fork.child).secrets
    grant = Grant.decode(fork.grant())
    t1 = hashlib.sha384(lp(b"sevfork/1 T1", fork.offer, join.core)).digest()
    t2 = hashlib.sha384(lp(b"sevfork/1 T2", t1, join.evidence, grant.evidence)).digest()
    key = hkdf_extract(t2, lp(secrets.ecdh, secrets.kem))
    assert (len(secrets.ecdh), len(secrets.kem)) == (48, 32)
    content = AESGCM(hkdf_expand(key, b"sevfork/1 grant")).decrypt(bytes(12), grant.box, t2)
    assert GrantContent.decode(content).manifest == manifest.encode()

    fork.child.receive_grant(grant.encode())
    confirm = AESGCM(hkdf_expand(key, b"sevfork/1 confirm"))
    assert confirm.decrypt(bytes(12), fork.child.confirm()[4:], t2) == b""
    event = AESGCM(hkdf_expand(key, b"sevfork/1 event"))
    fork.child.event(EventKind.EXITED)
    second = fork.child.event(EventKind.EXITED, b"0")
    assert event.decrypt(bytes(11) + b"\x01", second[12:], t2) == b"\x040"
    back = AESGCM(hkdf_expand(key, b"sevfork/1 parent event"))
    assert back.decrypt(bytes(12), fork.parent.event(EventKind.FAILED)[12:], t2) == b"\x03"


def test_both_sides_agree_on_both_secrets() -> None:
    offered = OfferKeys()
    joined = JoinKeys.answer(offered.share, offered.encapsulation_key)
    assert offered.agree(joined.share, joined.ciphertext) == joined.secrets


def test_changed_kem_ciphertext_yields_another_secret_and_not_an_error() -> None:
    offered = OfferKeys()
    joined = JoinKeys.answer(offered.share, offered.encapsulation_key)
    changed = bytes([joined.ciphertext[0] ^ 1]) + joined.ciphertext[1:]
    agreed = offered.agree(joined.share, changed)
    assert agreed.ecdh == joined.secrets.ecdh
    assert agreed.kem != joined.secrets.kem


@pytest.mark.parametrize("lost", ["ecdh", "kem"])
def test_each_half_of_the_exchange_matters(fork: Fork, lost: str) -> None:
    """With one of the two secrets known, and the other not, the keys are still others."""
    grant = fork.grant()
    state = inside(fork.child)
    report = fork.family.processor.verify(
        state.evidence,
        fork.root.own().expect(child_report_data(state.t1), fork.guest.launch_config),
    )
    t2 = transcript_2(state.t1, state.evidence, Grant.decode(grant).evidence)
    guessed = type(state.secrets)(**{**asdict(state.secrets), lost: bytes(32)})
    boxes = derive_boxes(report, report_data=report.report_data, secrets=guessed, t2=t2)
    with pytest.raises(NotAuthentic):
        boxes.grant.open(Grant.decode(grant).box)


@given(plaintexts=st.lists(parts, max_size=5))
def test_boxes_open_in_order_only(plaintexts: list[bytes]) -> None:
    sender, receiver = Box(bytes(32), b"t2"), Box(bytes(32), b"t2")
    sealed = [sender.seal(plaintext) for plaintext in plaintexts]
    assert [receiver.open(box) for box in sealed] == plaintexts
    for box in sealed:
        with pytest.raises(NotAuthentic):
            receiver.open(box)


def test_a_box_of_another_transcript_does_not_open() -> None:
    with pytest.raises(NotAuthentic):
        Box(bytes(32), b"t2").open(Box(bytes(32), b"another t2").seal(b"x"))
