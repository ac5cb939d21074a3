"""Payloads are decoded strictly, and an agent's words cannot drive a terminal."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevfork import errors
from sevfork.wire import protocol


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
