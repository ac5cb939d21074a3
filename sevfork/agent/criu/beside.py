"""What CRIU 4.2 does not carry, carried beside its images.

Found with a program that holds one of each kernel object, and asks for all that can be asked before
and after (``tests/vm/workloads/objects.py``). What cannot be carried is in ``unsupported.py``.

It is read while the workload runs, shortly before it is frozen, because that takes longer than a
freeze may: programs set such things when they start.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from sevfork.errors import NotAuthentic, RestoreFailed

_PROC = Path("/proc")
_PIDFD_GETFD = 438  # asm/unistd_64.h: a copy of another process's descriptor
_NOT_CONNECTED = (7, 10)  # closed and listening, net/tcp_states.h: all others are closed in a child
_TCP_INFO, _TCP_INFO_SIZE = 11, 144
_SEGMENTS_OUT = slice(136, 140)  # tcpi_segs_out of struct tcp_info, linux/tcp.h
_TCP, _UDP, _IP, _IPV6, _SOCKET = 6, 17, 0, 41, socket.SOL_SOCKET
# All that were found to be lost; numbers of linux/{tcp,udp,in,in6}.h and asm-generic/socket.h.
_OPTIONS = {
    _TCP: (2, 7, 8, 9, 10, 13, 18, 23, 25),
    _UDP: (103, 104),
    _IP: (10, 11, 12, 13, 33, 34, 49),
    _IPV6: (16, 18, 19, 23, 25, 49, 51, 66, 67),
    _SOCKET: (29, 35, 37),
}
_OPTION_SIZE = 64


class Pipe(msgspec.Struct, frozen=True):
    """Who may open a pipe again as ``/dev/stdout`` or ``/proc/self/fd/N``."""

    uid: int
    gid: int
    mode: int


class SocketOptions(msgspec.Struct, frozen=True):
    """Level, number and value of each; ``family`` and ``kind`` are those of ``socket(2)``."""

    family: int
    kind: int
    values: tuple[tuple[int, int, bytes], ...]


class Process(msgspec.Struct, frozen=True):
    """One process, by the number that it has in the container; by descriptor what it has open."""

    pid: int
    timer_slack_ns: int
    pipes: dict[int, Pipe]
    sockets: dict[int, SocketOptions]


_decoder = msgspec.json.Decoder(tuple[Process, ...])


def note(pids: Iterable[str]) -> bytes:
    """What these processes have, by their numbers in the guest; not of those that have ended."""
    noted = []
    for pid in map(int, pids):
        with suppress(FileNotFoundError, ProcessLookupError):
            noted.append(_note_process(pid))
    return msgspec.json.encode(noted)


def apply(noted: bytes, pids: Iterable[str]) -> None:
    """Give it to restored processes. Raises RestoreFailed if one of them cannot have it."""
    try:
        processes = {process.pid: process for process in _decoder.decode(noted)}
    except msgspec.DecodeError as exc:
        raise NotAuthentic("what the capture has beside CRIU's images is not well formed") from exc
    for pid in map(int, pids):
        process = processes.get(_inner_pid(pid))
        if process is not None:
            _apply_to(pid, process)


def _note_process(pid: int) -> Process:
    pipes, sockets = {}, {}
    for descriptor, target in _descriptors(pid):
        with _unless_closed():
            if target.startswith("pipe:"):
                pipes[descriptor] = _pipe(_PROC / f"{pid}/fd/{descriptor}")
            elif target.startswith("socket:"):
                with _copy_of(pid, descriptor) as endpoint:
                    options = _options(endpoint)
                if options is not None:
                    sockets[descriptor] = options
    return Process(_inner_pid(pid), _timer_slack(pid), pipes, sockets)


@contextmanager
def _unless_closed() -> Iterator[None]:
    """The process runs: what it closes while it is looked at will not be in the capture either."""
    try:
        yield
    except FileNotFoundError:
        return
    except OSError as exc:
        # pidfd_getfd(2) of a number that is no descriptor any more, or is that of another file.
        if exc.errno not in (errno.EBADF, errno.ENOTSOCK):
            raise


def _pipe(path: Path) -> Pipe:
    status = path.stat()
    return Pipe(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))


def _apply_to(pid: int, process: Process) -> None:
    try:
        (_PROC / f"{pid}/timerslack_ns").write_text(f"{process.timer_slack_ns}")
        for descriptor, pipe in process.pipes.items():
            _give(_PROC / f"{pid}/fd/{descriptor}", pipe)
        open_now = {descriptor for descriptor, _ in _descriptors(pid)}
        for descriptor in process.sockets.keys() & open_now:  # some may be closed
            with _copy_of(pid, descriptor) as endpoint:
                _set(endpoint, process.sockets[descriptor])
    except OSError as exc:
        message = f"a restored process could not have what it had: {exc.strerror}"
        raise RestoreFailed(message) from exc


def _give(path: Path, pipe: Pipe) -> None:
    if path.is_fifo():
        os.chown(path, pipe.uid, pipe.gid)
        path.chmod(pipe.mode)


def _options(endpoint: socket.socket) -> SocketOptions | None:
    """None for sockets that have none of these options."""
    if endpoint.family not in (socket.AF_INET, socket.AF_INET6) or not _is_restored(endpoint):
        return None
    values = []
    for level, options in _OPTIONS.items():
        for option in options:
            with suppress(OSError):  # of another protocol, or unknown to this kernel
                values.append((level, option, endpoint.getsockopt(level, option, _OPTION_SIZE)))
    return SocketOptions(endpoint.family, endpoint.type, tuple(values))


def _is_restored(endpoint: socket.socket) -> bool:
    """Not what is or was a connection: it is closed in a child, and its options cannot be set.

    One that both sides have closed is in the state of a new socket, until its descriptor is closed,
    too; but it has sent something (seen: such a one, under load, made every restore fail).
    """
    if endpoint.type != socket.SOCK_STREAM:
        return True
    info = endpoint.getsockopt(_TCP, _TCP_INFO, _TCP_INFO_SIZE)
    return info[0] in _NOT_CONNECTED and not any(info[_SEGMENTS_OUT])


def _set(endpoint: socket.socket, options: SocketOptions) -> None:
    """Set what is different; most of it is the default on both sides."""
    if (endpoint.family, endpoint.type) != (options.family, options.kind):
        return  # the process has run on and uses the number for something else
    for level, option, value in options.values:
        if endpoint.getsockopt(level, option, _OPTION_SIZE) != value:
            endpoint.setsockopt(level, option, value)


def _descriptors(pid: int) -> Iterator[tuple[int, str]]:
    for entry in (_PROC / f"{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            yield int(entry.name), os.readlink(entry)  # noqa: PTH115  # no path: "pipe:[1]"


@contextmanager
def _copy_of(pid: int, descriptor: int) -> Iterator[socket.socket]:
    """The same socket, in this process."""
    pidfd = os.pidfd_open(pid)
    try:
        copied = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, pidfd, descriptor, 0)
    finally:
        os.close(pidfd)
    if copied < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        endpoint = socket.socket(fileno=copied)
    except OSError:
        os.close(copied)
        raise
    with endpoint:
        yield endpoint


def _inner_pid(pid: int) -> int:
    """The number that the process has in its innermost namespace (``NSpid``, proc(5))."""
    status = (_PROC / f"{pid}/status").read_text(errors="replace")
    (line,) = (line for line in status.split("\n") if line.startswith("NSpid:"))
    return int(line.split()[-1])


def _timer_slack(pid: int) -> int:
    return int((_PROC / f"{pid}/timerslack_ns").read_text())
