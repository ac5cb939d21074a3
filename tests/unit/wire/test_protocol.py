"""Payloads are decoded strictly, and an agent's words cannot drive a terminal."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevfork import errors
from sevfork.wire import protocol
from sevfork.wire.lines import Frame, Kind


def test_a_request_comes_back() -> None:
    request = protocol.RelayJoin(fork_id=bytes(16), index=2, join=b"join")
    assert protocol.decode_request(protocol.encode(request)) == request


@given(st.binary(max_size=200))
def test_garbage_is_not_a_request(payload: bytes) -> None:
    with pytest.raises(errors.NotAuthentic):
        protocol.decode_request(payload)


def test_an_unknown_field_is_refused() -> None:
    payload = msgspec.msgpack.encode({"type": "GetStatus", "extra": 1})
    with pytest.raises(errors.NotAuthentic):
        protocol.decode_request(payload)


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(errors.NotAuthentic):
        protocol.decode_request(protocol.encode(protocol.GetStatus()) + b"\x00")


def test_a_failure_keeps_its_exit_code_and_loses_its_escape_sequences() -> None:
    frame = protocol.failure_frame(bytes(8), errors.RefusedByGuest("no\x1b[2J", hint="ask\n\x07"))
    error = protocol.decode_failure(frame.payload)
    assert isinstance(error, errors.RefusedByGuest)
    assert error.message == "no [2J"
    assert error.hint == "ask  "


CAPTURED: dict[str, Any] = {
    "type": "Captured",
    "pause_ms": 12.5,
    "state_bytes": 1,
    "sealed_bytes": 2**20,
}
RESTORED: dict[str, Any] = {
    "type": "Restored",
    "confirm": b"confirm",
    "events": [b"event"],
    "generation": 1,
    "restore_ms": 3.0,
}


def reply(said: dict[str, Any], **changes: Any) -> protocol.Reply:
    return protocol.decode_reply(msgspec.msgpack.encode({**said, **changes}))


def test_what_an_honest_guest_measures_is_taken() -> None:
    assert reply(CAPTURED) == protocol.Captured(12.5, 1, 2**20)
    assert reply(RESTORED) == protocol.Restored(b"confirm", [b"event"], 1, 3.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 1e300, 8.7e7])
@pytest.mark.parametrize(("said", "field"), [(CAPTURED, "pause_ms"), (RESTORED, "restore_ms")])
def test_a_time_that_is_no_time_is_refused(said: dict[str, Any], field: str, value: float) -> None:
    with pytest.raises(errors.NotAuthentic):
        reply(said, **{field: value})


@pytest.mark.parametrize("value", [-1, 2**53, 2**64 - 1, 1.5])
@pytest.mark.parametrize(
    ("said", "field"),
    [(CAPTURED, "state_bytes"), (CAPTURED, "sealed_bytes"), (RESTORED, "generation")],
)
def test_a_count_that_is_no_count_is_refused(
    said: dict[str, Any], field: str, value: float
) -> None:
    with pytest.raises(errors.NotAuthentic):
        reply(said, **{field: value})


@pytest.mark.parametrize("value", [-1, 2**53])
@pytest.mark.parametrize("field", ["done", "total"])
def test_progress_beyond_any_size_is_refused(field: str, value: int) -> None:
    payload = msgspec.msgpack.encode({"type": "Progress", "phase": "copy", field: value})
    with pytest.raises(errors.NotAuthentic):
        protocol.decode_progress(payload)


def test_a_guest_cannot_have_the_host_relay_without_end() -> None:
    with pytest.raises(errors.NotAuthentic):
        reply(RESTORED, events=[b""] * 17)
    with pytest.raises(errors.NotAuthentic):
        reply(CAPTURED, offers=[b""] * 65)


@pytest.mark.parametrize(
    "happened",
    [
        {"event": "exited", "returncode": 256},
        {"event": "exited", "returncode": -65},
        {"event": "exited", "returncode": 0.5},
        {"event": "born"},
        {"event": "restored", "sealed": bytes(2049)},
    ],
)
def test_an_event_that_no_guest_has_is_refused(happened: dict[str, Any]) -> None:
    life = {"type": "Life", "phase": "ready", "events": []}
    assert reply(life) == protocol.Life(protocol.WorkloadPhase.READY, [])
    with pytest.raises(errors.NotAuthentic):
        reply(life, events=[{"type": "Happened", **happened}])
    with pytest.raises(errors.NotAuthentic):
        reply(life, events=[{"type": "Happened", "event": "exited", "returncode": 0}] * 17)


ENTRY: dict[str, Any] = {
    "number": 1,
    "wall_ns": 0,
    "child": bytes(16),
    "fork_id": bytes(16),
    "index": 0,
    "event": "lost",
}
KNOWN: dict[str, Any] = {"fork_id": bytes(16), "index": 0, "heard": 2, "over": False}


@pytest.mark.parametrize(
    "changes",
    [
        {"number": -1},
        {"number": 2**53},
        {"wall_ns": 2**63},
        {"child": bytes(17)},
        {"fork_id": bytes(15)},
        {"index": 64},
        {"event": "\x1b[2J"},
        {"returncode": 256},
    ],
)
def test_a_chronicle_that_no_guest_keeps_is_refused(changes: dict[str, Any]) -> None:
    def chronicle(entries: list[dict[str, Any]]) -> protocol.Reply:
        return reply({"type": "Chronicle", "entries": [{"type": "Entry", **e} for e in entries]})

    assert isinstance(chronicle([ENTRY]), protocol.Chronicle)
    with pytest.raises(errors.NotAuthentic):
        chronicle([{**ENTRY, **changes}])
    with pytest.raises(errors.NotAuthentic):
        chronicle([ENTRY] * 257)


@pytest.mark.parametrize("changes", [{"fork_id": bytes(17)}, {"index": -1}, {"heard": -1}])
def test_a_family_that_no_guest_has_is_refused(changes: dict[str, Any]) -> None:
    def family(children: list[dict[str, Any]]) -> protocol.Reply:
        return reply(
            {"type": "Family", "children": [{"type": "KnownChild", **c} for c in children]}
        )

    assert isinstance(family([KNOWN]), protocol.Family)
    with pytest.raises(errors.NotAuthentic):
        family([{**KNOWN, **changes}])
    with pytest.raises(errors.NotAuthentic):
        family([KNOWN] * 1025)


def test_the_largest_family_and_the_longest_page_fit_into_a_frame() -> None:
    known = protocol.KnownChild(bytes(16), 63, 2**53 - 1, True)
    entry = protocol.Entry(
        2**53 - 1, 2**62, bytes(16), bytes(16), 63, protocol.LifeEvent.RESTORED, -64
    )
    for message in (
        protocol.Family([known] * protocol.MAX_FAMILY),
        protocol.Chronicle([entry] * protocol.MAX_PAGE),
    ):
        assert Frame(Kind.REPLY, bytes(8), protocol.encode(message)).encode_line()


def test_a_hint_names_the_vm_as_its_host_calls_it() -> None:
    error = errors.RefusedByGuest("no {vm}", hint="sevfork owner adopt {vm}")
    payload = protocol.failure_frame(bytes(8), error).payload
    told = protocol.decode_failure(payload, "web")
    assert (told.message, told.hint) == ("no {vm}", "sevfork owner adopt web")


@pytest.mark.parametrize("index", [-1, 64])
def test_a_place_that_no_capture_has_is_refused(index: int) -> None:
    said = {"type": "Join", "fork_id": bytes(16), "index": index, "join": b""}
    with pytest.raises(errors.NotAuthentic):
        protocol.decode_request(msgspec.msgpack.encode(said))


@pytest.mark.parametrize(
    ("request_", "tag"),
    [
        (protocol.RelayOffer(b""), "Offer"),
        (protocol.RelayJoin(b"", 0, b""), "Join"),
        (protocol.RelayConfirm(b"", 0, b""), "Confirm"),
        (protocol.RelayEvent(b"", 0, b""), "Event"),
    ],
)
def test_what_the_host_relays_has_its_messages_name_on_the_wire(
    request_: protocol.Request, tag: str
) -> None:
    assert msgspec.msgpack.decode(protocol.encode(request_))["type"] == tag


@given(st.text(st.characters()), st.text(st.characters()) | st.none())
def test_whatever_an_error_says_can_be_sent(message: str, hint: str | None) -> None:
    """A lone surrogate is what Python makes of a file name that is no UTF-8."""
    error = errors.HostCannot(message + "\udc80", hint=hint)
    frame = protocol.failure_frame(bytes(8), error)
    assert isinstance(protocol.decode_failure(frame.payload), errors.HostCannot)


def test_a_long_error_fits_into_a_frame() -> None:
    error = errors.HostCannot("\udc80" * 2**20, hint="\udc80" * 2**20)
    assert len(protocol.failure_frame(bytes(8), error).encode_line()) < 2**17
