"""An owner's question and its answer: nobody else asks, nobody else reads, nothing is old."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevfork.errors import NotAuthentic, RefusedByGuest
from sevfork.handshake import InstanceKey, owner_digest
from sevfork.handshake.keys import OfferKeys
from sevfork.handshake.owner_session import (
    MAX_ANSWER_BYTES,
    MAX_QUESTION_BYTES,
    MAX_REPLY_BYTES,
    MAX_REQUEST_BYTES,
    Asked,
    Question,
    answer,
)
from sevfork.handshake.owner_signature import TOKEN_NAMESPACE
from sevfork.owner.key_file import PrivateKey
from sevfork.wire import message

OWNER, STRANGER = PrivateKey.generate(), PrivateKey.generate()
DIGEST = owner_digest(OWNER.public)
VM = InstanceKey()
REQUEST, REPLY = b"what was printed?", b"words" * 100


@pytest.fixture
def asked() -> Asked:
    return Asked(OWNER, VM.public, REQUEST)


def test_the_owner_reads_what_the_vm_says(asked: Asked) -> None:
    question = Question.decode(asked.question)
    question.check(DIGEST, VM.public)
    assert question.request == REQUEST
    assert asked.open(answer(asked.question, REPLY, VM)) == REPLY


def test_what_passes_the_host_holds_nothing_of_the_reply(asked: Asked) -> None:
    assert b"words" not in answer(asked.question, REPLY, VM)


def test_an_old_answer_does_not_open_for_a_new_question(asked: Asked) -> None:
    old = answer(asked.question, REPLY, VM)
    with pytest.raises(NotAuthentic):
        Asked(OWNER, VM.public, REQUEST).open(old)


def test_a_question_that_is_replayed_is_answered_under_another_key(asked: Asked) -> None:
    first, second = (answer(asked.question, REPLY, VM) for _ in range(2))
    assert first[4:1669] != second[4:1669]
    assert first[1673:-64] != second[1673:-64]


def test_a_host_that_puts_its_own_keys_into_a_question_is_refused(asked: Asked) -> None:
    keys, question = OfferKeys(), asked.question
    for mine in (keys.share, keys.encapsulation_key):
        at = 68 if len(mine) == 97 else 68 + 97
        swapped = question[:at] + mine + question[at + len(mine) :]
        assert len(swapped) == len(question)
        with pytest.raises(NotAuthentic, match="owner-question"):
            Question.decode(swapped).check(DIGEST, VM.public)


def test_a_host_that_answers_by_itself_is_not_believed(asked: Asked) -> None:
    with pytest.raises(NotAuthentic, match="signature"):
        asked.open(answer(asked.question, REPLY, InstanceKey()))


def test_a_question_to_another_vm(asked: Asked) -> None:
    with pytest.raises(RefusedByGuest, match="another instance"):
        Question.decode(asked.question).check(DIGEST, InstanceKey().public)


def test_a_question_of_another_owner_and_one_to_a_vm_without_owner() -> None:
    question = Question.decode(Asked(STRANGER, VM.public, REQUEST).question)
    with pytest.raises(RefusedByGuest, match="another owner"):
        question.check(DIGEST, VM.public)
    with pytest.raises(RefusedByGuest, match="without an owner"):
        question.check(None, VM.public)


def test_a_stranger_that_names_the_owner(asked: Asked) -> None:
    theirs = Question.decode(Asked(STRANGER, VM.public, REQUEST).question)
    fields = (OWNER.public, theirs.instance_key, theirs.share, theirs.encapsulation_key)
    with pytest.raises(NotAuthentic):
        Question(*fields, theirs.request).signed(STRANGER).check(DIGEST, VM.public)


def test_a_signature_for_another_use(asked: Asked) -> None:
    body = asked.question[:-64]
    forged = body + OWNER.sign(TOKEN_NAMESPACE, body)
    with pytest.raises(NotAuthentic):
        Question.decode(forged).check(DIGEST, VM.public)


@given(st.integers(0, len(Asked(OWNER, VM.public, REQUEST).question) - 1), st.integers(1, 255))
def test_a_question_with_any_byte_changed_is_refused(at: int, change: int) -> None:
    changed = bytearray(QUESTION.question)
    changed[at] ^= change
    with pytest.raises((NotAuthentic, RefusedByGuest)):
        Question.decode(bytes(changed)).check(DIGEST, VM.public)


QUESTION = Asked(OWNER, VM.public, REQUEST)
ANSWER = answer(QUESTION.question, REPLY, VM)


@given(st.integers(0, len(ANSWER) - 1), st.integers(1, 255))
def test_an_answer_with_any_byte_changed_is_refused(at: int, change: int) -> None:
    changed = bytearray(ANSWER)
    changed[at] ^= change
    with pytest.raises(NotAuthentic):
        QUESTION.open(bytes(changed))


@pytest.mark.parametrize("cut", [1, 64, 100, 2000])
def test_what_is_cut_or_trails_is_refused(cut: int) -> None:
    for data in (ANSWER[:-cut], ANSWER + b"x"):
        with pytest.raises(NotAuthentic):
            QUESTION.open(data)
    for data in (QUESTION.question[:-cut], QUESTION.question + b"x"):
        with pytest.raises(NotAuthentic):
            Question.decode(data)


def test_the_largest_of_each_fit_into_a_message() -> None:
    asked = Asked(OWNER, VM.public, bytes(MAX_REQUEST_BYTES))
    assert len(asked.question) == MAX_QUESTION_BYTES <= message.MAX_QUESTION_BYTES
    largest = answer(asked.question, bytes(MAX_REPLY_BYTES), VM)
    assert len(largest) == MAX_ANSWER_BYTES <= message.MAX_ANSWER_BYTES
    assert message.MAX_LOGS_BYTES + 1024 <= MAX_REPLY_BYTES
