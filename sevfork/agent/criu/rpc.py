"""Talking to ``criu swrk``: its protobuf messages over a sequenced-packet socket.

Why not ``criu dump`` or ``runc checkpoint``: over this socket CRIU tells when the dump is complete
and everything is still frozen ("post-dump"), and waits for the answer. In that moment the files are
copied, and an answer of failure makes CRIU roll back. Besides, one process serves the copies before
and the final one, so nothing is started while the workload stands still.

Why not the library protobuf: it would be a third of a megabyte of other people's native code,
measured into every guest and fed by a process that reads the workload's memory, for messages of
integers, strings and bytes. Forty lines write and read those.

Field numbers: images/rpc.proto of CRIU 4.2; ``tests/integration/test_criu_protocol.py`` compares.
Only the fields used here are known.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import IntEnum
from pathlib import Path

from msgspec import Struct

from sevfork import process
from sevfork.deadline import Deadline
from sevfork.errors import SevforkError, TimedOut

Value = int | bool | str | bytes | tuple[str, ...]
OnNotify = Callable[[str], None]
# "No breakpoints" (include/fault-injection.h): CRIU does without debug registers. They do not work
# in some SEV guests (issue 2658); and using them makes the kernel patch its own scheduler, which
# QEMU 7.2's emulation with several threads can get wrong (seen: a panic by a stale int3).
ENVIRONMENT = {"CRIU_FAULT": "130"}
_MESSAGE_SIZE = 1 << 16
# CRIU notices that nobody listens only when it next has something to say. Until then its code is in
# the tasks, and a workload that stands still for minutes is better than one that is destroyed.
_END_TIMEOUT_S = 300.0
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Request(IntEnum):
    """``criu_req_type``."""

    DUMP = 1
    PRE_DUMP = 4
    NOTIFY = 6
    FEATURE_CHECK = 9


class Option(IntEnum):
    """``criu_opts``."""

    IMAGES_DIR_FD = 1
    PID = 2
    LEAVE_RUNNING = 3
    FILE_LOCKS = 8
    LOG_LEVEL = 9
    LOG_FILE = 10
    NOTIFY_SCRIPTS = 12
    ROOT = 13
    PARENT_IMG = 14
    TRACK_MEM = 15
    LINK_REMAP = 18
    MANAGE_CGROUPS_MODE = 34
    GHOST_LIMIT = 35
    IRMAP_SCAN_PATHS = 36
    TIMEOUT = 45
    TCP_SKIP_IN_FLIGHT = 46
    ORPHAN_PTS_MASTER = 50
    TCP_CLOSE = 52
    PRE_DUMP_MODE = 61
    NETWORK_LOCK = 64
    IMAGES_DIR = 68


CGROUPS_IGNORE = 0
NETWORK_LOCK_SKIP = 3
PRE_DUMP_BY_READING = 2
REQ_TYPE, REQ_OPTS, REQ_NOTIFY_SUCCESS, REQ_FEATURES = 1, 2, 3, 5
FEATURE_MEM_TRACK = 1
RESP_TYPE, RESP_SUCCESS, RESP_NOTIFY, RESP_MESSAGE = 1, 2, 5, 9


class CriuRefused(SevforkError):
    """CRIU answered that it failed; its log says why."""


class CriuEnded(SevforkError):
    """CRIU itself went away, which says nothing about the workload."""


class Criu(Struct, frozen=True):
    """A running ``criu swrk``; ``pid`` leads a session of its own."""

    connection: socket.socket
    pid: int

    def hold(self, stopped: bool) -> None:
        """Stop it where it is, with all it has started, or let it go on."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGSTOP if stopped else signal.SIGCONT)

    def request(
        self,
        kind: Request,
        options: Mapping[Option, Value],
        *,
        timeout_s: float,
        on_notify: OnNotify | None = None,
    ) -> None:
        """Ask and wait for the answer. What ``on_notify`` raises makes CRIU give up, and is raised.

        Raises CriuRefused, CriuEnded, or TimedOut when there is no answer.
        """
        self._exchange({REQ_TYPE: kind, REQ_OPTS: encode(options)}, timeout_s, on_notify)

    def learn_features(self, *, timeout_s: float) -> None:
        """Let CRIU find out what this kernel can do, which it keeps in ``/run/criu.kdat``."""
        features = encode({FEATURE_MEM_TRACK: True})
        self._exchange({REQ_TYPE: Request.FEATURE_CHECK, REQ_FEATURES: features}, timeout_s)

    def _exchange(
        self, message: Mapping[int, Value], timeout_s: float, on_notify: OnNotify | None = None
    ) -> None:
        deadline = Deadline.after(timeout_s)
        self._send(message)
        failure: Exception | None = None
        while (answer := self._receive(deadline)).get(RESP_TYPE) == Request.NOTIFY:
            failure = self._notified(answer, on_notify) or failure
        if failure is not None:
            raise failure
        if not answer.get(RESP_SUCCESS):
            raise CriuRefused(f"criu: {_text(answer.get(RESP_MESSAGE, b'')).strip() or 'failed'}")

    def _notified(self, answer: dict[int, Value], on_notify: OnNotify | None) -> Exception | None:
        failure: Exception | None = None
        try:
            if on_notify is not None:
                on_notify(_script(answer))
        except Exception as exc:  # whatever it is, CRIU must be answered, else all stays frozen
            failure = exc
        self._send({REQ_TYPE: Request.NOTIFY, REQ_NOTIFY_SUCCESS: failure is None})
        return failure

    def _send(self, message: Mapping[int, Value]) -> None:
        try:
            self.connection.send(encode(message))
        except OSError as exc:
            raise CriuEnded(f"criu ended: {exc.strerror}") from exc

    def _receive(self, deadline: Deadline) -> dict[int, Value]:
        self.connection.settimeout(max(deadline.left_s, 0.001))
        try:
            data = self.connection.recv(_MESSAGE_SIZE)
        except TimeoutError as exc:
            raise TimedOut("criu did not answer in time") from exc
        except OSError as exc:
            raise CriuEnded(f"criu ended: {exc.strerror}") from exc
        if not data:
            raise CriuEnded("criu ended without an answer")
        return decode(data)


@contextmanager
def running(stderr: Path) -> Iterator[Criu]:
    """Start ``criu swrk`` and end it with the block.

    Closing the connection makes a CRIU that is in the middle of a dump roll back and let the
    workload run, so it is closed before the process is told to end.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    argv = ["criu", "swrk", "0"]  # the socket is its standard input
    with (
        ours,
        theirs,
        stderr.open("wb") as errors,
        process.spawn(
            argv,
            stdin=theirs.fileno(),
            stdout=errors,
            stderr=errors,
            env=ENVIRONMENT,
            new_session=True,
        ) as worker,
    ):
        theirs.close()
        try:
            yield Criu(ours, worker.pid)
        finally:
            ours.close()
            _let_end(worker.poll, timeout_s=_END_TIMEOUT_S)


def release_held(processes: Path = Path("/proc")) -> None:
    """Let every CRIU go on that an earlier agent, which has died, had stopped.

    It is in a session of its own: the kernel would end it with SIGHUP otherwise, in the middle of
    a dump, when the agent dies.
    """
    for stat in processes.glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            text = stat.read_text(errors="replace")
            name, state = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2]
            if (name, state) == ("criu", "T"):
                os.kill(int(stat.parent.name), signal.SIGCONT)


def _let_end(poll: Callable[[], int | None], *, timeout_s: float) -> None:
    """Wait for an orderly end, because CRIU killed in a dump would leave its code in the tasks."""
    with suppress(TimedOut):
        for _ in Deadline.after(timeout_s).poll(0.005, "criu does not end"):
            if poll() is not None:
                return


def _script(answer: Mapping[int, Value]) -> str:
    return _text(decode(blob(answer.get(RESP_NOTIFY, b""))).get(1, b""))


def blob(value: Value) -> bytes:
    """The value of a field that has a length; empty if it is of another type."""
    return value if isinstance(value, bytes) else b""


def number(value: Value) -> int:
    """The value of a varint field; 0 if it is of another type."""
    return value if isinstance(value, int) else 0


def _text(value: Value) -> str:
    return blob(value).decode(errors="replace")


def encode(message: Mapping[int, Value] | Mapping[Option, Value]) -> bytes:
    """A protobuf message of integers, booleans (varint), strings or bytes, repeated strings."""
    return b"".join(_field(number, value) for number, value in message.items())


def _field(number: int, value: Value) -> bytes:
    if isinstance(value, tuple):
        return b"".join(_field(number, item) for item in value)
    if isinstance(value, int):
        return _varint(number << 3 | _VARINT) + _varint(value % 2**64)
    data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def decode(data: bytes) -> dict[int, Value]:
    """The last value of each field: int for varints, bytes for what has a length."""
    return dict(fields(data))


def fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Every field in order, those that are repeated too. Raises CriuEnded for what is malformed."""
    position = 0
    while position < len(data):
        key, position = _read_varint(data, position)
        value, position = _read_value(data, position, key & 7)
        yield key >> 3, value


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise CriuEnded("criu sent a message that is not well formed")


def _read_value(data: bytes, position: int, wire_type: int) -> tuple[Value, int]:
    if wire_type == _VARINT:
        return _read_varint(data, position)
    if wire_type == _BYTES:
        size, position = _read_varint(data, position)
    else:
        size = {_FIXED64: 8, _FIXED32: 4}.get(wire_type, len(data))
    if position + size > len(data):
        raise CriuEnded("criu sent a message that is not well formed")
    return data[position : position + size], position + size
