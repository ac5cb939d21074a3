"""The audit record of one VM: chains of entries, and a head that its instance key signs.

docs/audit.md is the specification. Whoever reads brings a nonce, and the head is signed over it:
a host that carries an older head shows one with another nonce.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from sevfork.errors import NotAuthentic
from sevfork.handshake.audit_entries import ENTRY_LIMIT_BYTES, ChainKind, Entry
from sevfork.handshake.codec import Cursor, MessageKind, head
from sevfork.handshake.instance import SIGNATURE_SIZE, InstanceKey, check_signature
from sevfork.handshake.launch import DIGEST_SIZE
from sevfork.handshake.messages import INSTANCE_KEY_SIZE
from sevfork.wire.lp import lp

AUDIT_NONCE_SIZE = 32
# Of each chain; the oldest beyond that are condensed into their number and hash.
MAX_KEPT = 128
HEAD_LIMIT_BYTES = 1024
ENTRIES_LIMIT_BYTES = len(ChainKind) * MAX_KEPT * (4 + ENTRY_LIMIT_BYTES)
_HEAD_LABEL = b"sevfork/1 audit head"
_CHAIN_LABEL = b"sevfork/1 audit chain"
_ENTRY_LABEL = b"sevfork/1 audit entry"


class Link(Struct, frozen=True):
    """How far a chain goes: ``count`` entries, and the hash over all of them."""

    count: int
    hash: bytes

    @classmethod
    def first(cls, instance_key: bytes, kind: ChainKind) -> Link:
        """Of no entries; no other VM's chain, and no other chain of this VM's, begins so."""
        return cls(0, hashlib.sha384(lp(_CHAIN_LABEL, instance_key, bytes([kind]))).digest())

    def after(self, entry: bytes) -> Link:
        """With one more, which is hashed as it is encoded."""
        return Link(self.count + 1, hashlib.sha384(lp(_ENTRY_LABEL, self.hash, entry)).digest())

    def encode(self) -> bytes:
        return self.count.to_bytes(8, "big") + self.hash

    @classmethod
    def take(cls, cursor: Cursor) -> Link:
        return cls(cursor.number(8), cursor.take(DIGEST_SIZE))


class Span(Struct, frozen=True):
    """One chain: what of it was ``condensed``, the oldest entries, and where it ends."""

    condensed: Link
    last: Link

    @classmethod
    def empty(cls, instance_key: bytes, kind: ChainKind) -> Span:
        first = Link.first(instance_key, kind)
        return cls(first, first)


class Head(Struct, frozen=True):
    """What is signed: whose record it is, for whom it was read and when, and each chain's span."""

    instance_key: bytes
    nonce: bytes
    wall_ns: int
    spans: Mapping[ChainKind, Span]
    signature: bytes = bytes(SIGNATURE_SIZE)

    def signed(self, key: InstanceKey) -> Head:
        return replace(self, signature=key.sign(_HEAD_LABEL, self._body()))

    def check(self, nonce: bytes) -> None:
        """Raise NotAuthentic unless the key that it names has signed it for this nonce."""
        check_signature(self.instance_key, _HEAD_LABEL, self._body(), self.signature)
        if self.nonce != nonce:
            raise NotAuthentic("audit: the head is signed for another nonce: it may be old")

    def encode(self) -> bytes:
        return self._body() + self.signature

    @classmethod
    def decode(cls, data: bytes) -> Head:
        """Raise NotAuthentic unless data is exactly one head; its signature is not checked."""
        cursor = Cursor(MessageKind.AUDIT_HEAD, data)
        if cursor.number(1) != len(ChainKind):
            raise cursor.error("another number of chains")
        cursor.zeros(1)
        key, nonce = cursor.take(INSTANCE_KEY_SIZE), cursor.take(AUDIT_NONCE_SIZE)
        wall_ns = cursor.number(8)
        spans = {kind: Span(Link.take(cursor), Link.take(cursor)) for kind in ChainKind}
        signed = cls(key, nonce, wall_ns, spans, cursor.take(SIGNATURE_SIZE))
        cursor.end()
        return signed

    def _body(self) -> bytes:
        first = head(MessageKind.AUDIT_HEAD, len(ChainKind)) + self.instance_key + self.nonce
        links = (
            link.encode()
            for kind in ChainKind
            for link in (self.spans[kind].condensed, self.spans[kind].last)
        )
        return first + self.wall_ns.to_bytes(8, "big") + b"".join(links)


class Record(Struct, frozen=True):
    """A record that is whole: every entry that is not condensed, by number."""

    head: Head
    entries: tuple[Entry, ...]

    def of(self, kind: ChainKind) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.kind is kind)


def verified(encoded_head: bytes, encoded_entries: bytes, nonce: bytes) -> Record:
    """The record that an agent has sent for this nonce: LP(entry) for each, chain after chain.

    Raises NotAuthentic if anything is missing, moved, changed, another VM's, or older than the
    nonce. Whose the key is that has signed it, its evidence says, and nothing here.
    """
    signed = Head.decode(encoded_head)
    signed.check(nonce)
    encoded = tuple(_split(encoded_entries))
    entries = tuple(map(Entry.decode, encoded))
    for kind in ChainKind:
        ours = [pair for pair in zip(encoded, entries, strict=True) if pair[1].kind is kind]
        _check_chain(signed, kind, ours)
    in_order = tuple(sorted(entries, key=lambda entry: entry.number))
    _check_numbers(signed, in_order)
    return Record(signed, in_order)


def _split(data: bytes) -> Iterator[bytes]:
    if len(data) > ENTRIES_LIMIT_BYTES:
        raise NotAuthentic("audit: more entries than a record keeps")
    position = 0
    while position < len(data):
        start = position + 4
        position = start + int.from_bytes(data[position:start], "big")
        if position > len(data):
            raise NotAuthentic("audit: an entry is cut short")
        yield data[start:position]


def _check_chain(signed: Head, kind: ChainKind, ours: Sequence[tuple[bytes, Entry]]) -> None:
    """From what was condensed, entry by entry, to the end that is signed."""
    span, name = signed.spans[kind], f"audit: the chain of {kind.name.lower()}s"
    if span.condensed.count == 0 and span.condensed != Link.first(signed.instance_key, kind):
        raise NotAuthentic(f"{name} is another VM's")
    link = span.condensed
    for encoded, entry in ours:
        if entry.position != link.count + 1:
            raise NotAuthentic(
                f"{name} has entry {entry.position} where {link.count + 1} should be"
            )
        link = link.after(encoded)
    if link.count != span.last.count:
        raise NotAuthentic(f"{name} ends at entry {link.count} of {span.last.count}")
    if link.hash != span.last.hash:
        raise NotAuthentic(f"{name} holds an entry that is not the one which was written")


def _check_numbers(signed: Head, entries: Sequence[Entry]) -> None:
    """Each number once over all chains; those that are not here are the condensed ones."""
    total = sum(span.last.count for span in signed.spans.values())
    numbers = [entry.number for entry in entries]
    if len(set(numbers)) != len(numbers) or not set(numbers) <= set(range(1, total + 1)):
        raise NotAuthentic("audit: the entries are not numbered one after the other")
    for kind in ChainKind:
        positions = [entry.position for entry in entries if entry.kind is kind]
        if positions != sorted(positions):
            raise NotAuthentic("audit: entries of a chain are numbered out of order")
