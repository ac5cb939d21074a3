"""CRIU's protocol: messages as its own library would write them, and what a failure leads to."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevfork.agent.criu import rpc
from sevfork.agent.criu.rpc import (
    Criu,
    CriuEnded,
    CriuRefused,
    Option,
    Request,
    Value,
    decode,
    encode,
)
from sevfork.errors import TimedOut

DUMP, NOTIFY, SUCCESS, NOTIFICATION, MESSAGE = 1, 6, 2, 5, 9


class FakeCriu:
    """Answers in order; keeps what it was sent. ``b""`` stands for its end."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = list(answers)
        self.sent: list[dict[int, Value]] = []

    def settimeout(self, _: float) -> None:
        """There is nothing to wait for."""

    def send(self, data: bytes) -> int:
        self.sent.append(decode(data))
        return len(data)

    def recv(self, _: int) -> bytes:
        if not self._answers:
            raise TimeoutError
        return self._answers.pop(0)


def talking_to(fake: FakeCriu) -> Criu:
    return Criu(cast(socket.socket, fake), pid=0)


def made(fields: dict[int, Value]) -> bytes:
    return encode(fields)


def answer(*, success: bool, message: str = "") -> bytes:
    return made({1: DUMP, SUCCESS: success, MESSAGE: message})


def notification(script: str) -> bytes:
    return made({1: NOTIFY, SUCCESS: True, NOTIFICATION: made({1: script})})


def test_a_message_is_what_protobuf_makes_of_it() -> None:
    message = made({1: 1, 2: True, 3: 300, 4: "ab", 5: -1, 6: ("x", "y")})
    assert message.hex() == ("0801100118ac022202616228ffffffffffffffffff01320178320179")


@given(st.dictionaries(st.integers(1, 200), st.integers(0, 2**64 - 1) | st.binary(max_size=300)))
def test_what_was_encoded_is_decoded(fields: dict[int, Value]) -> None:
    assert decode(encode(fields)) == fields


@given(st.binary(max_size=40))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    try:
        decode(data)
    except CriuEnded:
        return


def test_a_dump_that_succeeds_reports_each_step() -> None:
    fake = FakeCriu(notification("pre-dump"), notification("post-dump"), answer(success=True))
    steps: list[str] = []
    talking_to(fake).request(Request.DUMP, {Option.PID: 7}, timeout_s=1, on_notify=steps.append)
    assert steps == ["pre-dump", "post-dump"]
    assert fake.sent[0] == {1: DUMP, 2: encode({Option.PID: 7})}
    assert fake.sent[1:] == [{1: NOTIFY, 3: 1}] * 2


def test_a_step_that_fails_makes_criu_roll_back_and_is_raised() -> None:
    fake = FakeCriu(notification("post-dump"), answer(success=False))

    def full(_: str) -> None:
        raise OSError(28, "no space")

    with pytest.raises(OSError, match="no space"):
        talking_to(fake).request(Request.DUMP, {}, timeout_s=1, on_notify=full)
    assert fake.sent[-1] == {1: NOTIFY, 3: 0}


def test_a_refusal_carries_crius_message() -> None:
    fake = FakeCriu(answer(success=False, message="Can't dump"))
    with pytest.raises(CriuRefused, match="Can't dump"):
        talking_to(fake).request(Request.DUMP, {}, timeout_s=1)


def test_criu_that_ends_is_no_refusal() -> None:
    with pytest.raises(CriuEnded):
        talking_to(FakeCriu(b"")).request(Request.DUMP, {}, timeout_s=1)


def test_criu_that_does_not_answer_is_given_up() -> None:
    with pytest.raises(TimedOut):
        talking_to(FakeCriu()).request(Request.DUMP, {}, timeout_s=1)


@pytest.mark.own_processes
def test_a_criu_that_is_slow_to_roll_back_is_not_ended_before_it_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock = SimpleNamespace(now=0.0)

    def monotonic() -> float:
        clock.now += 5  # each look at the clock is some seconds later
        return float(clock.now)

    @contextmanager
    def spawn(*_: object, **__: object) -> Iterator[object]:
        yield SimpleNamespace(poll=lambda: 0 if clock.now > 120 else None, pid=0)

    monkeypatch.setattr("sevfork.deadline.time.monotonic", monotonic)
    monkeypatch.setattr("sevfork.agent.criu.rpc.process.spawn", spawn)
    with pytest.raises(TimedOut), rpc.running(tmp_path / "stderr"):
        raise TimedOut("the dump takes too long")
    assert clock.now > 120


def test_a_criu_that_a_dead_agent_had_stopped_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: told.append((pid, number)))
    for pid, stat in {
        "7": "7 (criu) T 1 7 7 0",
        "8": "8 (criu) S 1 7 7 0",
        "9": "9 (a) b) T 1 7 7 0",
        "10": "10 (redis-server) T 1 7 7 0",
    }.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "stat").write_text(stat)
    rpc.release_held(tmp_path)
    assert told == [(7, signal.SIGCONT)]
