"""The agent's channel over a stream that reports events."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from sevfork.errors import SevforkError, TimedOut
from sevfork.host.channel import StreamChannel
from sevfork.host.hypervisor import ChannelClosed


class FakeStream:
    """A stream whose other end is the test."""

    def __init__(self, takes: int = 10**9) -> None:
        self.sent = b""
        self.takes = takes
        self.paused = False
        self.aborts = 0
        self.arrive: Callable[[bytes], None]
        self.end: Callable[[SevforkError], None]

    def listen(
        self, on_data: Callable[[bytes], None], on_end: Callable[[SevforkError], None]
    ) -> None:
        self.arrive, self.end = on_data, on_end

    def pause(self, paused: bool) -> None:
        self.paused = paused

    def send(self, data: bytes) -> int:
        taken = data[: self.takes]
        self.sent += taken
        return len(taken)

    def abort(self) -> None:
        self.aborts += 1


def test_bytes_arrive_in_order() -> None:
    stream = FakeStream()
    channel = StreamChannel(stream)
    stream.arrive(b"one")
    stream.arrive(b"two")
    assert [channel.receive(1), channel.receive(1)] == [b"one", b"two"]


def test_receive_returns_nothing_when_nothing_came_in_time() -> None:
    started = time.monotonic()
    assert StreamChannel(FakeStream()).receive(0.05) == b""
    assert 0.04 < time.monotonic() - started < 2


def test_receive_wakes_up_when_bytes_arrive() -> None:
    stream = FakeStream()
    channel = StreamChannel(stream)
    threading.Timer(0.05, stream.arrive, [b"late"]).start()
    assert channel.receive(10) == b"late"


def test_what_arrived_before_the_end_is_still_read() -> None:
    stream = FakeStream()
    channel = StreamChannel(stream)
    stream.arrive(b"last words")
    stream.end(ChannelClosed("gone"))
    assert channel.receive(1) == b"last words"
    for _ in range(2):
        with pytest.raises(ChannelClosed, match="gone"):
            channel.receive(1)


def test_send_goes_on_until_all_is_taken() -> None:
    stream = FakeStream(takes=3)
    StreamChannel(stream).send(b"0123456789", timeout_s=5)
    assert stream.sent == b"0123456789"


def test_send_has_a_deadline() -> None:
    with pytest.raises(TimedOut):
        StreamChannel(FakeStream(takes=0)).send(b"x", timeout_s=0.05)


def test_a_send_that_blocks_has_a_deadline_and_ends_the_channel() -> None:
    stream, blocked = FakeStream(), threading.Event()

    def block(data: bytes) -> int:
        blocked.wait(10)
        return 0

    stream.send = block  # type: ignore[method-assign]
    channel = StreamChannel(stream)
    started = time.monotonic()
    for _ in range(2):
        with pytest.raises(TimedOut):
            channel.send(b"x", timeout_s=0.1)
    assert time.monotonic() - started < 5
    blocked.set()


def test_send_fails_once_the_guest_has_ended() -> None:
    stream = FakeStream()
    channel = StreamChannel(stream)
    stream.end(ChannelClosed("gone"))
    with pytest.raises(ChannelClosed):
        channel.send(b"x")


def test_close_wakes_a_reader_up_and_may_be_repeated() -> None:
    stream = FakeStream()
    channel = StreamChannel(stream)
    closing = threading.Timer(0.05, channel.close)
    closing.start()
    with pytest.raises(ChannelClosed):
        channel.receive(10)
    channel.close()
    closing.join(10)  # the reader wakes up before the other's close has returned
    assert stream.aborts == 2


def test_a_guest_that_floods_the_channel_is_held_back_and_nothing_is_lost() -> None:
    stream = FakeStream()
    channel = StreamChannel(stream)
    piece = bytes(1024 * 1024)
    while not stream.paused:
        stream.arrive(piece)
    read = 0
    while stream.paused:
        read += len(channel.receive(1))
    while data := channel.receive(0.01):
        read += len(data)
    assert read == 8 * len(piece)
