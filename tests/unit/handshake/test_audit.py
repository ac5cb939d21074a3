"""An audit record by two readers: ours, and one that was written from docs/audit.md alone.

Whatever a host does to a record on its way, both refuse it.
"""

from __future__ import annotations

import dataclasses
import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from sevfork.agent.audit import AuditLog
from sevfork.errors import NotAuthentic, RefusedByGuest
from sevfork.handshake import InstanceKey, Lineage
from sevfork.handshake.audit import MAX_KEPT, Head, verified
from sevfork.handshake.audit_entries import (
    ENTRY_LIMIT_BYTES,
    MAX_REASON_BYTES,
    ChainKind,
    ChildActivated,
    Deed,
    Entry,
    KeysGranted,
    PlaceTaken,
    Recipient,
    RequestRefused,
    StateCaptured,
)
from sevfork.wire import protocol
from sevfork.wire.lines import MAX_FRAME_SIZE
from sevfork.wire.lp import lp
from tests.support import audit_reader

NONCE, LATER = b"n" * 32, b"l" * 32
TO = Recipient(b"f" * 16, 2, b"k" * 32, b"m" * 48)
DEEDS: list[Deed] = [
    StateCaptured(b"f" * 16, b"m" * 48, 3 << 20),
    RequestRefused(23, "Reserve", "a fork needs the owner's token"),
    KeysGranted(TO, warm=False),
    RequestRefused(20, "RelayJoin", "the evidence was rejected: measurement: wanted a, got b"),
    StateCaptured(bytes(16), b"s" * 48, 5),
    KeysGranted(replace(TO, child_index=3), warm=True),
    RequestRefused(22, "RelayJoin", "join: cut short"),
    ChildActivated(TO),
]


@dataclass(frozen=True)
class Carried:
    """What a host has in its hands: a record on its way to a reader with a nonce."""

    key: bytes
    head: bytes
    entries: tuple[bytes, ...]
    nonce: bytes = NONCE

    def read_by_us(self) -> list[int]:
        record = verified(self.head, lp(*self.entries), self.nonce)
        assert record.head.instance_key == self.key, "its evidence names another instance"
        return [entry.number for entry in record.entries]

    def read_by_another(self) -> audit_reader.Read:
        return audit_reader.read(
            self.head, lp(*self.entries), nonce=self.nonce, instance_key=self.key
        )

    def is_refused(self) -> None:
        with pytest.raises((NotAuthentic, AssertionError)):
            self.read_by_us()
        with pytest.raises(audit_reader.Tampered):
            self.read_by_another()


class Vm:
    """One that keeps a record; its clock ticks at every look."""

    def __init__(self) -> None:
        self.key, self.now = InstanceKey(), 1_795_707_122_870_000_000
        self.log = AuditLog(self.key, self.tick)
        self.log.append(PlaceTaken.of(Lineage(self.key.public)))
        for deed in DEEDS:
            self.log.append(deed)

    def tick(self) -> int:
        self.now += 1_000_000
        return self.now

    def read(self, nonce: bytes = NONCE) -> Carried:
        audited = self.log.read(nonce)
        entries = tuple(audit_reader.split(audited.entries))
        return Carried(self.key.public, audited.head, entries, nonce)


@pytest.fixture
def vm() -> Vm:
    return Vm()


def places_of(entries: tuple[bytes, ...], kind: ChainKind) -> list[int]:
    return [place for place, entry in enumerate(entries) if entry[2] == kind]


def test_two_readers_find_the_same_in_what_the_agent_wrote(vm: Vm) -> None:
    carried = vm.read()
    record = verified(carried.head, lp(*carried.entries), NONCE)
    assert [entry.deed for entry in record.entries[1:]] == DEEDS
    other = carried.read_by_another()
    assert [entry["number"] for entry in other.entries] == carried.read_by_us() == [*range(1, 10)]
    assert other.counts == {
        "place": 1,
        "capture": 2,
        "refusal": 3,
        "grant": 2,
        "activation": 1,
    }
    refusal, warm = other.entries[2], other.entries[6]
    assert (refusal["exit_code"], refusal["request"]) == (23, "Reserve")
    assert refusal["reason"] == "a fork needs the owner's token"
    assert (warm["warm"], warm["index"], warm["instance_key"]) == (1, 3, b"k" * 32)
    assert (
        other.entries[0]["lineage_digest"] == PlaceTaken.of(Lineage(vm.key.public)).lineage_digest
    )


def without(place: int) -> Callable[[Carried], Carried]:
    return lambda c: dataclasses.replace(c, entries=c.entries[:place] + c.entries[place + 1 :])


def swapped(c: Carried) -> Carried:
    first, second, _ = places_of(c.entries, ChainKind.REFUSAL)
    entries = list(c.entries)
    entries[first], entries[second] = entries[second], entries[first]
    return dataclasses.replace(c, entries=tuple(entries))


def swapped_and_renumbered(c: Carried) -> Carried:
    first, second, _ = places_of(c.entries, ChainKind.REFUSAL)
    entries = list(c.entries)
    one, other = entries[first], entries[second]
    entries[first], entries[second] = one[:28] + other[28:], other[:28] + one[28:]
    return dataclasses.replace(c, entries=tuple(entries))


def repeated(c: Carried) -> Carried:
    return dataclasses.replace(c, entries=(*c.entries, c.entries[-1]))


def said_otherwise(c: Carried) -> Carried:
    """A refusal in other words."""
    (first, *_) = places_of(c.entries, ChainKind.REFUSAL)
    entry = Entry.decode(c.entries[first])
    other = replace(entry, deed=RequestRefused(23, "Reserve", "nothing of note")).encode()
    return dataclasses.replace(c, entries=(*c.entries[:first], other, *c.entries[first + 1 :]))


def as_if_condensed(c: Carried) -> Carried:
    """The oldest refusal left out, and the head's words for it changed accordingly."""
    (first, *_) = places_of(c.entries, ChainKind.REFUSAL)
    head = Head.decode(c.head)
    span = head.spans[ChainKind.REFUSAL]
    spans = {
        **head.spans,
        ChainKind.REFUSAL: replace(span, condensed=span.condensed.after(c.entries[first])),
    }
    return without(first)(dataclasses.replace(c, head=replace(head, spans=spans).encode()))


def from_another_vm(c: Carried) -> Carried:
    """One entry of another VM, in the place of one of the same number."""
    (grant, *_) = places_of(c.entries, ChainKind.GRANT)
    entries = list(c.entries)
    entries[grant] = Vm().read().entries[grant][:-1] + b"x"
    return dataclasses.replace(c, entries=tuple(entries))


def of_another_vm(c: Carried) -> Carried:
    return dataclasses.replace(Vm().read(), key=c.key)


def the_head_of_another_vm(c: Carried) -> Carried:
    return dataclasses.replace(c, head=Vm().read().head)


def signed_by_the_host(c: Carried) -> Carried:
    """The same words, under a key that the host has made, which it also names."""
    key = InstanceKey()
    head = replace(Head.decode(c.head), instance_key=key.public).signed(key)
    return dataclasses.replace(c, head=head.encode(), key=key.public)


TAMPERINGS = [
    *(without(place) for place in range(len(DEEDS) + 1)),
    swapped,
    swapped_and_renumbered,
    repeated,
    said_otherwise,
    as_if_condensed,
    from_another_vm,
    of_another_vm,
    the_head_of_another_vm,
    signed_by_the_host,
    lambda c: dataclasses.replace(c, entries=()),
    lambda c: dataclasses.replace(c, entries=(*c.entries, b"")),
    lambda c: dataclasses.replace(c, head=c.head[:-1]),
    lambda c: dataclasses.replace(c, head=c.head + b"\x00"),
]


@pytest.mark.parametrize("tamper", TAMPERINGS)
def test_what_a_host_does_to_a_record_is_seen(vm: Vm, tamper: Callable[[Carried], Carried]) -> None:
    tamper(vm.read()).is_refused()


def test_each_flipped_bit_is_seen(vm: Vm) -> None:
    carried = vm.read()
    for place, entry in enumerate(carried.entries):
        for at in range(len(entry)):
            changed = entry[:at] + bytes([entry[at] ^ 1]) + entry[at + 1 :]
            entries = (*carried.entries[:place], changed, *carried.entries[place + 1 :])
            dataclasses.replace(carried, entries=entries).is_refused()
    for at in range(len(carried.head)):
        head = carried.head[:at] + bytes([carried.head[at] ^ 1]) + carried.head[at + 1 :]
        dataclasses.replace(carried, head=head).is_refused()


def test_entries_that_are_cut_short_are_seen(vm: Vm) -> None:
    carried = vm.read()
    encoded = lp(*carried.entries)
    for size in range(len(encoded)):
        with pytest.raises(NotAuthentic):
            verified(carried.head, encoded[:size], NONCE)
        with pytest.raises(audit_reader.Tampered):
            audit_reader.read(carried.head, encoded[:size], nonce=NONCE, instance_key=vm.key.public)


def test_an_old_record_is_not_taken_for_a_new_one(vm: Vm) -> None:
    old = vm.read()
    vm.log.append(DEEDS[2])
    dataclasses.replace(old, nonce=LATER).is_refused()
    new = vm.read(LATER)
    assert len(new.read_by_us()) == len(old.read_by_us()) + 1
    dataclasses.replace(new, entries=old.entries).is_refused()
    dataclasses.replace(new, head=old.head).is_refused()
    nonce_moved = old.head[:36] + LATER + old.head[68:]
    dataclasses.replace(old, head=nonce_moved, nonce=LATER).is_refused()


def test_a_flood_of_refusals_displaces_no_grant_and_shows(vm: Vm) -> None:
    for number in range(1000):
        vm.log.append(RequestRefused(23, "RelayJoin", f"offer: it is spent {number}"))
    carried = vm.read()
    other = carried.read_by_another()
    assert other.counts["refusal"] == 1003
    of = {kind: places_of(carried.entries, kind) for kind in ChainKind}
    assert len(of[ChainKind.REFUSAL]) == MAX_KEPT
    assert [len(of[kind]) for kind in ChainKind if kind is not ChainKind.REFUSAL] == [1, 2, 2, 1]
    assert carried.read_by_us() == [entry["number"] for entry in other.entries]
    assert other.entries[-1]["reason"] == "offer: it is spent 999"
    without(of[ChainKind.REFUSAL][0])(carried).is_refused()


def test_a_later_record_has_the_hash_of_an_earlier_one_in_it(vm: Vm) -> None:
    earlier = Head.decode(vm.read().head).spans[ChainKind.REFUSAL].last
    for deed in (DEEDS[1], DEEDS[3]):
        vm.log.append(deed)
    later = vm.read()
    link = Head.decode(later.head).spans[ChainKind.REFUSAL].condensed
    seen = [link]
    for place in places_of(later.entries, ChainKind.REFUSAL):
        seen.append(link := link.after(later.entries[place]))
    assert earlier in seen[:-1]


def test_the_largest_record_fits_into_a_frame() -> None:
    log = AuditLog(InstanceKey())
    for number in range(2 * MAX_KEPT):
        log.append(RequestRefused(255, "R" * 99, "é" * MAX_REASON_BYTES + str(number)))
        for deed in (DEEDS[0], DEEDS[2], DEEDS[-1], PlaceTaken(True, 1, b"f" * 16, 63, b"d" * 48)):
            log.append(deed)
    audited = log.read(NONCE)
    record = verified(audited.head, audited.entries, NONCE)
    assert len(record.entries) == len(ChainKind) * MAX_KEPT
    for kind in ChainKind:
        assert {entry.kind for entry in record.of(kind)} == {kind}
    assert len(protocol.encode(audited)) < MAX_FRAME_SIZE - 100
    assert max(map(len, audit_reader.split(audited.entries))) <= ENTRY_LIMIT_BYTES


def test_what_cannot_be_written_as_it_is_is_cut_and_escaped() -> None:
    log = AuditLog(InstanceKey())
    log.refused(protocol.GetStatus(), RefusedByGuest("x" * 383 + "é" + "y"))
    log.refused(protocol.GetStatus(), RefusedByGuest("a file \udc80\n"))
    audited = log.read(NONCE)
    first, second = verified(audited.head, audited.entries, NONCE).entries
    assert isinstance(first.deed, RequestRefused)
    assert isinstance(second.deed, RequestRefused)
    assert first.deed.reason == "x" * 383
    assert second.deed == RequestRefused(23, "GetStatus", "a file \\udc80\n")


def signed_anew(vm: Vm, entries: list[Entry]) -> Carried:
    """A record as a broken agent would sign it: the entries chained as they are."""
    honest = Head.decode(vm.read().head)
    made = {kind: replace(span, last=span.condensed) for kind, span in honest.spans.items()}
    encoded = []
    for entry in entries:
        encoded.append(entry.encode())
        span = made[entry.kind]
        made[entry.kind] = replace(span, last=span.last.after(encoded[-1]))
    head = replace(honest, spans=made).signed(vm.key).encode()
    return Carried(vm.key.public, head, tuple(encoded))


def test_numbers_that_make_no_sense_are_refused_though_they_are_signed(vm: Vm) -> None:
    refusal, grant = DEEDS[1], DEEDS[2]
    for numbers in ((1, 1, 2), (1, 2, 4), (2, 1, 3), (0, 1, 2)):
        entries = [Entry(numbers[0], 1, 0, refusal), Entry(numbers[1], 2, 0, refusal)]
        signed_anew(vm, [*entries, Entry(numbers[2], 1, 0, grant)]).is_refused()
    good = [Entry(1, 1, 0, refusal), Entry(3, 2, 0, refusal), Entry(2, 1, 0, grant)]
    assert signed_anew(vm, good).read_by_us() == [1, 2, 3]


def test_chains_that_began_with_another_key_are_refused_though_they_are_signed(vm: Vm) -> None:
    other = Vm().read()
    head = replace(Head.decode(other.head), instance_key=vm.key.public).signed(vm.key)
    dataclasses.replace(other, key=vm.key.public, head=head.encode()).is_refused()


def hostile_entries() -> list[bytes]:
    start = struct.pack(">BBBBQQQ", 1, 19, 3, 0, 1, 1, 0)
    grant = Entry(1, 1, 0, DEEDS[2]).encode()
    place = Entry(1, 1, 0, PlaceTaken(False, 0, bytes(16), 0, b"d" * 48)).encode()
    return [
        b"",
        start,
        start[:4] + struct.pack(">QQQ", 2**53, 1, 0) + b"\x17\x00",
        start + b"\x17\x05Join",
        start + b"\x17\x21" + b"J" * 33,
        start + b"\x17\x00" + b"x" * (MAX_REASON_BYTES + 1),
        start + b"\x17\x01\xff",
        start + b"\x17\x00\xff",
        b"\x01\x13\x06\x00" + start[4:],
        b"\x01\x13\x03\x01" + start[4:] + b"\x17\x00",
        b"\x02" + start[1:] + b"\x17\x00",
        grant + b"\x00",
        grant[:-1],
        grant[:28] + b"\x02" + grant[29:],
        place[:28] + b"\x02" + place[29:],
    ]


@pytest.mark.parametrize("entry", hostile_entries())
def test_what_is_no_entry_is_refused(entry: bytes) -> None:
    with pytest.raises(NotAuthentic):
        Entry.decode(entry)


def test_a_record_of_too_many_entries_is_not_even_looked_at(vm: Vm) -> None:
    carried = vm.read()
    with pytest.raises(NotAuthentic, match="more entries"):
        verified(carried.head, secrets.token_bytes(2**20), NONCE)
