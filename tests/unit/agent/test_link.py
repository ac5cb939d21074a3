"""The agent's end of the channel, over a pseudo-terminal in place of a virtio-serial port."""

import errno
import os
import select
import threading
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest

from sevfork.agent import serve as serve_module
from sevfork.agent.link import MAX_POSTPONED, HostGone, Link
from sevfork.agent.serve import VmEnds, VmMustEnd, serve
from sevfork.errors import NotAuthentic, RefusedByGuest, TimedOut
from sevfork.wire import protocol
from sevfork.wire.lines import Frame, Kind, LineDecoder

PING = Frame(Kind.REQUEST, b"12345678", protocol.encode(protocol.GetStatus()))


class Port:
    """A pseudo-terminal: the test holds the host's end."""

    def __init__(self) -> None:
        self.host, guest = os.openpty()
        tty.setraw(guest)
        self.link = Link(Path(os.ttyname(guest)))
        self._decoder = LineDecoder()
        os.close(guest)

    def heard(self) -> list[Frame]:
        time.sleep(0.05)
        return self._decoder.feed(os.read(self.host, 1 << 16))


@pytest.fixture
def port() -> Iterator[Port]:
    port = Port()
    with port.link:
        yield port
    os.close(port.host)


def test_a_frame_arrives_after_garbage_and_a_frame_cut_short(port: Port) -> None:
    line = PING.encode_line()
    os.write(port.host, b"\x00\xff garbage" + line[:7])
    os.write(port.host, line)
    assert port.link.next_frame(1) == PING


def test_waiting_has_an_end(port: Port) -> None:
    assert port.link.next_frame(0.05) is None


def test_without_a_host_the_agent_sleeps(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hang-up that lasts would have poll() return at once, for ever."""
    looks = []
    poll = select.poll

    def counted() -> select.poll:
        looks.append(True)
        return poll()

    monkeypatch.setattr(select, "poll", counted)
    os.close(port.host)
    assert port.link.next_frame(0.5) is None
    assert 1 <= len(looks) <= 3
    port.host = os.open(os.devnull, os.O_RDONLY)  # for the fixture to close


def test_an_exchange_postpones_requests_that_come_meanwhile(port: Port) -> None:
    question = Frame(0x80, b"question", b"?")
    os.write(port.host, PING.encode_line() + Frame(0x80, b"question", b"!").encode_line())
    assert port.link.exchange(question, 1).payload == b"!"
    assert port.link.next_frame(0.5) == PING


def test_an_exchange_without_an_answer_is_a_timeout_and_loses_no_request(port: Port) -> None:
    os.write(port.host, PING.encode_line())
    with pytest.raises(TimedOut):
        port.link.exchange(Frame(0x80, b"question", b"?"), 0.1)
    assert port.link.next_frame(0.5) == PING


def fail_once(monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    """The port fails the next time; after that it works again."""
    works = getattr(os, call)

    def fails(*_: object) -> None:
        monkeypatch.setattr(os, call, works)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fails)


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EIO, errno.ENODEV])
def test_a_port_that_cannot_be_read_for_a_moment_is_read_on(
    port: Port, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    line = PING.encode_line()
    os.write(port.host, line[:9])
    assert port.link.next_frame(0.1) is None
    os.write(port.host, line)
    fail_once(monkeypatch, "read", number)
    assert port.link.next_frame(1) == PING


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EIO, errno.ENODEV])
def test_a_port_that_cannot_be_written_is_a_host_that_is_gone(
    port: Port, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fail_once(monkeypatch, "write", number)
    with pytest.raises(HostGone):
        port.link.send(PING)
    port.link.send(PING)
    assert port.heard() == [PING]


class Enough(BaseException):
    """Ends the serving loop."""


def never() -> NoReturn:
    raise AssertionError("the VM was switched off")


def serve_these(port: Port, frames: list[Frame], answers: Sequence[object]) -> list[Frame]:
    left = list(answers)

    def handle(request: object, progress: object) -> protocol.Done:
        answer = left.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return protocol.Done()

    for frame in frames:
        os.write(port.host, frame.encode_line())
    with pytest.raises(Enough):
        serve(port.link, handle, power_off=never, idle=lambda: None)
    return port.heard()


def test_a_request_that_fails_unexpectedly_does_not_end_the_agent(port: Port) -> None:
    answers = [ZeroDivisionError("a secret"), RefusedByGuest("no"), None, Enough()]
    heard = serve_these(port, [PING] * 4, answers)
    assert [frame.kind for frame in heard] == [Kind.FAILURE, Kind.FAILURE, Kind.REPLY]
    assert b"a secret" not in heard[0].payload


def test_what_a_request_failed_of_is_not_on_the_console(
    port: Port, caplog: pytest.LogCaptureFixture
) -> None:
    error = FileNotFoundError(2, "No such file", "/srv/customers.db")
    serve_these(port, [PING] * 2, [error, Enough()])
    assert "FileNotFoundError" in caplog.text
    assert "customers" not in caplog.text


def test_a_request_that_does_not_parse_is_refused(port: Port) -> None:
    broken = Frame(Kind.REQUEST, b"12345678", b"\xc1")
    heard = serve_these(port, [broken, PING], [Enough()])
    assert [frame.kind for frame in heard] == [Kind.FAILURE]


def test_a_host_that_is_gone_does_not_end_the_agent(port: Port) -> None:
    heard = serve_these(port, [PING] * 3, [HostGone("gone"), None, Enough()])
    assert [frame.kind for frame in heard] == [Kind.REPLY]


def test_what_cannot_be_undone_switches_the_vm_off_after_saying_why(port: Port) -> None:
    def handle(request: object, progress: object) -> protocol.Done:
        raise VmMustEnd(NotAuthentic("the last chunk does not open"))

    def power_off() -> NoReturn:
        raise Enough

    os.write(port.host, PING.encode_line())
    with pytest.raises(Enough):
        serve(port.link, handle, power_off, lambda: None)
    (failure,) = port.heard()
    error = protocol.decode_failure(failure.payload)
    assert isinstance(error, NotAuthentic)


def test_a_vm_that_is_asked_to_end_does_so_after_its_last_word(port: Port) -> None:
    last_word = protocol.Life(protocol.WorkloadPhase.READY, [])

    def handle(request: object, progress: object) -> protocol.Done:
        raise VmEnds(last_word)

    def power_off() -> NoReturn:
        raise Enough

    os.write(port.host, PING.encode_line())
    with pytest.raises(Enough):
        serve(port.link, handle, power_off, lambda: None)
    (reply,) = port.heard()
    assert (reply.kind, reply.request_id) == (Kind.REPLY, PING.request_id)
    assert protocol.decode_reply(reply.payload) == last_word


def test_a_vm_that_must_not_go_on_does_not_wait_for_a_host_that_does_not_read(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    def handle(request: object, progress: object) -> protocol.Done:
        raise VmMustEnd(NotAuthentic("x" * 100_000))  # more than the port holds

    def power_off() -> NoReturn:
        raise Enough

    monkeypatch.setattr(serve_module, "LAST_WORDS_S", 0.2)
    os.write(port.host, PING.encode_line())
    started = time.monotonic()
    with pytest.raises(Enough):
        serve(port.link, handle, power_off, lambda: None)
    assert time.monotonic() - started < 5


def test_a_vm_that_must_not_go_on_is_switched_off_whatever_sending_does(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    def handle(request: object, progress: object) -> protocol.Done:
        raise VmMustEnd(NotAuthentic("x" * 1_000_000))  # more than a frame holds

    def power_off() -> NoReturn:
        raise Enough

    os.write(port.host, PING.encode_line())
    with pytest.raises(Enough):
        serve(port.link, handle, power_off, lambda: None)


def test_a_host_that_floods_the_channel_while_it_is_asked_loses_what_it_sends(port: Port) -> None:
    """Measured before there was a bound: 286 MB of the guest's memory within 30 s."""
    line, stop = PING.encode_line(), threading.Event()

    def flood() -> None:
        while not stop.is_set():
            with suppress(BlockingIOError):
                os.write(port.host, line)

    os.set_blocking(port.host, False)
    thread = threading.Thread(target=flood)
    thread.start()
    try:
        with pytest.raises(TimedOut):
            port.link.exchange(Frame(0x80, b"question", b"?"), 0.5)
    finally:
        stop.set()
        thread.join()
    kept = list(iter(lambda: port.link.next_frame(0.1), None))
    waiting = (1 << 16) // len(line)  # at most one read, and what the port itself holds
    assert MAX_POSTPONED <= len(kept) <= MAX_POSTPONED + 2 * waiting


def test_as_many_requests_as_may_wait_are_answered_after_an_exchange(port: Port) -> None:
    frames = [Frame(Kind.REQUEST, bytes([number]) * 8, b"") for number in range(MAX_POSTPONED + 5)]
    question = Frame(0x80, b"question", b"?")
    answer = Frame(0x80, b"question", b"!")
    os.write(port.host, b"".join(frame.encode_line() for frame in [*frames, answer]))
    assert port.link.exchange(question, 1) == answer
    assert list(iter(lambda: port.link.next_frame(0.1), None)) == frames[:MAX_POSTPONED]
