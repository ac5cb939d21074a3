"""Parsers accept exactly what is encoded, and reject everything else with our error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sevfork.errors import NotAuthentic
from sevfork.handshake.lineage import MAX_DESCENT, ForkCertificate, Lineage, OwnerCertificate
from sevfork.handshake.manifest import MANIFEST_LIMIT_BYTES, MAX_LAYERS, Layer, Manifest
from sevfork.handshake.messages import (
    EVIDENCE_LIMIT_BYTES,
    TAG_SIZE,
    Confirm,
    Event,
    Grant,
    GrantContent,
    Join,
    JoinCore,
    Offer,
    ParentEvent,
)
from sevfork.handshake.token import MAX_CHIPS, MAX_SIZE, Allowance, OwnerToken
from sevfork.handshake.warm_messages import (
    Activate,
    ActivateContent,
    Answer,
    AnswerCore,
    Call,
    Update,
    WarmGrantContent,
)
from sevfork.technology import Technology


def size(count: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=count, max_size=count)


technologies = st.sampled_from(list(Technology))
u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
cores = st.builds(
    JoinCore,
    technology=technologies,
    nonce=size(32),
    share=size(97),
    ciphertext=size(1568),
    launch_config=size(104),
    instance_key=size(32),
)
answer_cores = st.builds(AnswerCore, size(32), size(97))
certificates = st.builds(
    ForkCertificate, size(32), size(32), size(16), u32, u64, size(48), signature=size(64)
)
owner_certificates = st.builds(OwnerCertificate, size(32), size(32), signature=size(64))
allowances = st.builds(
    Allowance, u32, st.booleans(), u64, st.lists(size(16) | size(64), max_size=3).map(tuple)
)
layers = st.builds(
    Layer,
    image_key=size(32),
    header_digest=size(48),
    chunk_count=st.integers(1, 2**24),
    image_id=size(16),
    start=st.integers(0, 2**50).map(lambda pages: pages * 4096),
)

MESSAGES = {
    "offer": st.builds(
        Offer,
        technology=technologies,
        fork_id=size(16),
        child_index=u32,
        nonce=size(32),
        share=size(97),
        encapsulation_key=size(1568),
        launch_config=size(104),
        instance_key=size(32),
        manifest_digest=size(48),
        policy_digest=size(48),
    ),
    "join core": cores,
    "join": st.builds(Join, cores.map(JoinCore.encode), size(64), st.binary(max_size=100)),
    "grant": st.builds(Grant, st.binary(max_size=100), st.binary(max_size=100)),
    "grant content": st.builds(GrantContent, st.binary(max_size=100), st.binary(max_size=100)),
    "confirm": st.builds(Confirm, size(16)),
    "event": st.builds(Event, u64, st.binary(min_size=17, max_size=1041)),
    "parent event": st.builds(ParentEvent, u64, st.binary(min_size=17, max_size=1041)),
    "manifest": st.builds(Manifest, st.lists(layers, min_size=1, max_size=3).map(tuple)),
    "certificate": certificates,
    "owner certificate": owner_certificates,
    "lineage": st.builds(
        Lineage,
        size(32),
        st.none() | owner_certificates,
        st.lists(certificates, max_size=3).map(tuple),
    ),
    "warm grant content": st.builds(WarmGrantContent, st.binary(max_size=100)),
    "update": st.builds(Update, u64, st.binary(min_size=20, max_size=6936)),
    "call": st.builds(Call, size(32), size(97), size(16), u32, u64, size(48)),
    "answer core": answer_cores,
    "answer": st.builds(Answer, answer_cores.map(AnswerCore.encode), st.binary(max_size=100)),
    "activate": st.builds(Activate, st.binary(max_size=100)),
    "activate content": st.builds(
        ActivateContent, st.binary(max_size=100), st.binary(max_size=100)
    ),
    "owner token": st.builds(
        OwnerToken, size(32), size(32), size(48), u64, allowances, signature=size(64)
    ),
}
every_message = pytest.mark.parametrize("strategy", MESSAGES.values(), ids=MESSAGES.keys())


@every_message
@given(data=st.data())
def test_a_message_decodes_to_itself_and_no_other_bytes_do(
    strategy: Any, data: st.DataObject
) -> None:
    """No byte is without meaning: reserved ones are checked, all others are told apart."""
    message = data.draw(strategy)
    assert type(message).decode(message.encode()) == message
    for changed in (
        _cut(message, data.draw),
        _trailed(message),
        _of_another(message, "version", data.draw),
        _of_another(message, "kind", data.draw),
    ):
        with pytest.raises(NotAuthentic):
            type(message).decode(changed)
    for other in (_changed(message, data.draw), _garbage(message, data.draw)):
        assert _means_what_it_says(message, other)


def _cut(message: Any, draw: Callable[..., int]) -> bytes:
    encoded: bytes = message.encode()
    # A box of no fixed length: the tag is what would not verify, so cut into the shortest one.
    if isinstance(message, Event):
        encoded = encoded[: 12 + 17]
    if isinstance(message, Update):
        encoded = encoded[: 12 + 20]
    return encoded[: draw(st.integers(0, len(encoded) - 1))]


def _trailed(message: Any) -> bytes:
    extra = {Event: 1042, ParentEvent: 1042, Update: 6937}.get(type(message), 1)
    return bytes(message.encode() + bytes(extra))


def _of_another(message: Any, what: str, draw: Callable[..., int]) -> bytes:
    encoded = bytearray(message.encode())
    encoded[("version", "kind").index(what)] ^= draw(st.integers(1, 255))
    return bytes(encoded)


def _changed(message: Any, draw: Callable[..., int]) -> bytes:
    encoded = bytearray(message.encode())
    encoded[draw(st.integers(0, len(encoded) - 1))] ^= draw(st.integers(1, 255))
    return bytes(encoded)


def _garbage(message: Any, draw: Callable[..., Any]) -> bytes:
    """Behind the head of a message, the most of the time."""
    encoded: bytes = message.encode()
    head, middle = encoded[: draw(st.integers(0, 8))], draw(st.binary(max_size=300))
    return bytes(head + middle + encoded[:300])


def _means_what_it_says(message: Any, data: bytes) -> bool:
    """Other bytes are rejected, or are those of another message, each with its meaning."""
    try:
        decoded = type(message).decode(data)
    except NotAuthentic:
        return True
    same: bool = decoded == message
    return bytes(decoded.encode()) == data and same == (data == message.encode())


def test_sizes_are_those_of_the_specification() -> None:
    offer = Offer(
        Technology.TDX,
        bytes(16),
        0,
        bytes(32),
        bytes(97),
        bytes(1568),
        bytes(104),
        bytes(32),
        bytes(48),
        bytes(48),
    )
    assert len(offer.encode()) == 1953
    assert JoinCore.SIZE == 1837
    assert len(Confirm(bytes(16)).encode()) == 20
    assert len(Call(bytes(32), bytes(97), bytes(16), 0, 0, bytes(48)).encode()) == 209
    assert AnswerCore.SIZE == 133
    assert MANIFEST_LIMIT_BYTES == 6916


def test_largest_token_is_within_its_limit_and_no_larger_one_is_read() -> None:
    def token(chips: int, size: int = 64) -> bytes:
        allowed = Allowance(1, chips=(bytes(size),) * chips)
        return OwnerToken(bytes(32), bytes(32), bytes(48), 1, allowed).encode()

    assert len(token(0)) == 200
    assert len(token(MAX_CHIPS)) <= MAX_SIZE
    assert OwnerToken.decode(token(MAX_CHIPS)).encode() == token(MAX_CHIPS)
    with pytest.raises(NotAuthentic, match="too many chips"):
        OwnerToken.decode(token(MAX_CHIPS + 1))
    for size in (0, 15, 17, 65):
        with pytest.raises(NotAuthentic):
            OwnerToken.decode(token(1, size))


def test_token_that_stands_neither_once_nor_often_is_rejected() -> None:
    token = bytearray(OwnerToken(bytes(32), bytes(32), bytes(48), 1, Allowance(1)).encode())
    token[2] = 2
    with pytest.raises(NotAuthentic, match="reserved"):
        OwnerToken.decode(bytes(token))


def test_evidence_beyond_the_limit_is_rejected_before_it_is_copied() -> None:
    claimed = (EVIDENCE_LIMIT_BYTES + 1).to_bytes(4, "big")
    with pytest.raises(NotAuthentic, match="limit"):
        Grant.decode(b"\x01\x03\x00\x00" + claimed)


def test_unknown_suite_and_technology_are_rejected() -> None:
    for position, reason in ((2, "suite"), (3, "technology")):
        head = bytearray(b"\x01\x01\x01\x01")
        head[position] = 9
        with pytest.raises(NotAuthentic, match=reason):
            Offer.decode(bytes(head) + bytes(1949))


def test_unknown_suite_and_technology_of_a_join_are_rejected() -> None:
    for position, reason in ((2, "suite"), (3, "technology")):
        head = bytearray(b"\x01\x02\x01\x01")
        head[position] = 9
        with pytest.raises(NotAuthentic, match=reason):
            JoinCore.decode(bytes(head) + bytes(JoinCore.SIZE - 4))


def test_largest_manifest_and_longest_lineage_fit_into_a_grant() -> None:
    layer = Layer(
        image_key=bytes(32), header_digest=bytes(48), chunk_count=1, image_id=bytes(16), start=0
    )
    link = ForkCertificate(bytes(32), bytes(32), bytes(16), 0, 1, bytes(48))
    owner = OwnerCertificate(bytes(32), bytes(32))
    lineage = Lineage(bytes(32), owner, (link,) * MAX_DESCENT).encode()
    content = GrantContent(Manifest((layer,) * MAX_LAYERS).encode(), lineage).encode()
    grant = Grant(bytes(EVIDENCE_LIMIT_BYTES), content + bytes(TAG_SIZE))
    assert Grant.decode(grant.encode()) == grant
    activate = Activate(content + bytes(TAG_SIZE))
    assert Activate.decode(activate.encode()) == activate


def test_largest_manifest_fits_into_an_update_and_a_warm_grant() -> None:
    layer = Layer(
        image_key=bytes(32), header_digest=bytes(48), chunk_count=1, image_id=bytes(16), start=0
    )
    largest = Manifest((layer,) * MAX_LAYERS).encode()
    assert len(largest) == MANIFEST_LIMIT_BYTES
    update = Update(0, bytes(4) + largest + bytes(TAG_SIZE))
    assert Update.decode(update.encode()) == update
    content = WarmGrantContent(largest)
    assert WarmGrantContent.decode(content.encode()) == content
    with pytest.raises(NotAuthentic, match="limit"):
        WarmGrantContent.decode(WarmGrantContent(largest + b"x").encode())


def test_the_two_contents_of_a_grant_are_never_taken_for_one_another() -> None:
    warm, cold = WarmGrantContent(b"m").encode(), GrantContent(b"m", b"l").encode()
    assert (WarmGrantContent.is_in(warm), WarmGrantContent.is_in(cold)) == (True, False)
    assert not WarmGrantContent.is_in(ActivateContent(b"m", b"l").encode())
    assert not WarmGrantContent.is_in(b"")
    for content, kind in ((warm, GrantContent), (cold, WarmGrantContent), (cold, ActivateContent)):
        with pytest.raises(NotAuthentic, match="kind"):
            kind.decode(content)


@pytest.mark.parametrize("count", [0, 65])
def test_manifest_without_layers_or_with_too_many_is_rejected(count: int) -> None:
    layer = Layer(
        image_key=bytes(32), header_digest=bytes(48), chunk_count=1, image_id=bytes(16), start=0
    )
    with pytest.raises(NotAuthentic, match="layers"):
        Manifest.decode(b"\x01\x07\x00" + bytes([count]) + layer.encode() * count)


@pytest.mark.parametrize("chunk_count", [0, 2**24 + 1])
def test_layer_with_an_impossible_chunk_count_is_rejected(chunk_count: int) -> None:
    encoded = bytes(32) + bytes(48) + chunk_count.to_bytes(4, "big") + bytes(24)
    with pytest.raises(NotAuthentic, match="wrong size"):
        Manifest.decode(b"\x01\x07\x00\x01" + encoded)


@pytest.mark.parametrize("kept", [2, 100, 1952])
def test_a_message_that_is_cut_is_said_to_be_cut(kept: int) -> None:
    with pytest.raises(NotAuthentic, match="cut short"):
        Offer.decode((b"\x01\x01\x01\x01" + bytes(1949))[:kept])


def test_a_lineage_with_an_owner_flag_that_is_none_is_rejected() -> None:
    with pytest.raises(NotAuthentic, match="reserved"):
        Lineage.decode(
            b"\x01\x08\x02\x00" + bytes(32) + OwnerCertificate(bytes(32), bytes(32)).encode()
        )


@pytest.mark.parametrize(
    "change",
    [
        {"image_key": bytes(31)},
        {"header_digest": bytes(47)},
        {"image_id": bytes(17)},
        {"chunk_count": 0},
        {"chunk_count": 2**24 + 1},
    ],
)
def test_a_layer_with_a_field_of_another_size_is_rejected(change: dict[str, Any]) -> None:
    fields: dict[str, Any] = {
        "image_key": bytes(32),
        "header_digest": bytes(48),
        "chunk_count": 2**24,
        "image_id": bytes(16),
        "start": 0,
    }
    assert Layer(**fields).chunk_count == 2**24
    with pytest.raises(NotAuthentic, match="wrong size"):
        Layer(**{**fields, **change})


@pytest.mark.parametrize(
    "start", [1, 4095, 4097, 2**63 - 4096, 2**63, 2**64 - 4096, 2**63 - 4096 - 2**20]
)
def test_a_layer_that_starts_where_none_can_lie_is_rejected(start: int) -> None:
    encoded = bytes(32) + bytes(48) + (1).to_bytes(4, "big") + bytes(16) + start.to_bytes(8, "big")
    with pytest.raises(NotAuthentic, match="starts where none can lie"):
        Manifest.decode(b"\x01\x07\x00\x01" + encoded)


def test_a_layer_may_end_just_before_the_last_byte_that_can_be_addressed() -> None:
    """Its length counts too: the largest image at the largest start that it can have."""
    fields: dict[str, Any] = {
        "image_key": bytes(32),
        "header_digest": bytes(48),
        "image_id": bytes(16),
        "chunk_count": 2**24,
    }
    last = 2**63 - 4096 - 2**24 * 2**20 - 4096
    layer = Layer(**fields, start=last)
    assert layer.end == 2**63 - 4096
    for start in (last + 4096, -4096):
        with pytest.raises(NotAuthentic, match="starts where none can lie"):
            Layer(**fields, start=start)


@given(chain=st.lists(layers, min_size=1, max_size=5, unique=True), held=st.integers(1, 5))
def test_a_chain_goes_beyond_its_own_beginnings_and_nothing_else(
    chain: list[Layer], held: int
) -> None:
    manifest, beginning = Manifest(tuple(chain)), Manifest(tuple(chain[:held]))
    assert manifest.beyond(beginning) == tuple(chain[held:])
    changed = replace(chain[min(held, len(chain)) - 1], image_key=bytes(range(32)))
    assert manifest.beyond(Manifest((*beginning.layers[:-1], changed))) is None
    assert manifest.beyond(Manifest((*manifest.layers, changed))) is None
