"""What an update must not miss: everything here changes in each round, by itself or by others.

GET /change   the next round
GET /state    digests of all memory, files and processes, and the number of the round
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

HOME = Path("/var/lib/workload")
SIZE = 4 << 20
HUGE = 2 << 20
PAGE = 4096
NUMBERS = 150  # processes that are tried; pid_max is 301 at least
PATTERN = 300  # bytes of it, so that no two pages are the same
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.shmat.restype = ctypes.c_void_p
LIBC.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
LIBC.shmdt.argtypes = (ctypes.c_void_p,)
LIBC.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def page(number: int) -> bytes:
    """What round ``number`` writes, a little more than a page."""
    return hashlib.shake_128(b"%d" % number).digest(PAGE + PATTERN)


def place(number: int) -> int:
    """Where it writes it; not at a page's beginning."""
    return number * 37 * PAGE % (SIZE - 2 * PAGE) + 100


def digest(content: bytes | mmap.mmap | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def in_a_process(action: Callable[[], object]) -> None:
    """Somebody else does it, who is gone when this returns."""
    pid = os.fork()
    if not pid:
        action()
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("the other process failed")


def private() -> mmap.mmap:
    return mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class Memory:
    """Each ``write_...`` changes one kind of it, and each ``read_...`` is its digest."""

    def __init__(self) -> None:
        self.heap, self.grown, self.dropped, self.hidden = (private() for _ in range(4))
        self.huge = mmap.mmap(-1, 4 * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.huge.madvise(mmap.MADV_HUGEPAGE)
        self.shared = mmap.mmap(-1, SIZE)
        self.written, self.mapped, self.theirs = map(os.memfd_create, "abc")
        for descriptor in (self.written, self.mapped, self.theirs):
            os.ftruncate(descriptor, SIZE)
        self.mapping = mmap.mmap(self.mapped, SIZE)
        self.segment = LIBC.shmget(0, SIZE, 0o1600)
        name = HOME / "deleted"
        self.deleted = os.open(name, os.O_RDWR | os.O_CREAT)
        name.unlink()
        posix = Path("/dev/shm/posix")  # noqa: S108  # it is what it is there for
        posix.write_bytes(bytes(SIZE))
        with posix.open("r+b") as file:
            self.posix = mmap.mmap(file.fileno(), SIZE)
        image = Path("/opt/workload/chain.py")
        with image.open("rb") as file:
            self.copied = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def write(self, number: int) -> None:
        content, at = page(number), place(number)
        end = at + len(content)
        self.heap[at:end] = content
        self.copied[100 + number % 50] = number % 256
        self.huge[at:end] = content
        self.posix[100 : 100 + len(content)] = content  # the same pages each time
        self._grow(content)
        self._drop(content)
        self._hide(number, content)
        in_a_process(lambda: self.shared.__setitem__(slice(at, end), content))
        os.pwrite(self.written, content, at)
        os.pwrite(self.mapped, content, at)
        in_a_process(lambda: self._map_and_write(at, content))
        in_a_process(lambda: self._attach_and_write(at, content))
        os.pwrite(self.deleted, content, at)

    def _grow(self, content: bytes) -> None:
        """It may have to move."""
        size = len(self.grown)
        self.grown.resize(size + 16 * PAGE)
        self.grown[size : size + len(content)] = content

    def _drop(self, content: bytes) -> None:
        """What was there is zero again."""
        self.dropped.madvise(mmap.MADV_DONTNEED)
        self.dropped[100 : 100 + len(content)] = content

    def _hide(self, number: int, content: bytes) -> None:
        """Nobody may read it in every other capture."""
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.hidden))
        self._protect(address, mmap.PROT_READ | mmap.PROT_WRITE)
        self.hidden[place(number) : place(number) + len(content)] = content
        self._protect(address, (mmap.PROT_READ, 0)[number % 2])

    def _protect(self, address: int, protection: int) -> None:
        if LIBC.mprotect(address, SIZE, protection):
            raise OSError(ctypes.get_errno(), "mprotect")

    def _map_and_write(self, at: int, content: bytes) -> None:
        with mmap.mmap(self.theirs, SIZE) as mapping:
            mapping[at : at + len(content)] = content

    def _attach_and_write(self, at: int, content: bytes) -> None:
        address = LIBC.shmat(self.segment, None, 0)
        ctypes.memmove(address + at, content, len(content))
        LIBC.shmdt(address)

    def read(self) -> dict[str, str]:
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.hidden))
        self._protect(address, mmap.PROT_READ)
        names = ("heap", "grown", "dropped", "hidden", "huge", "shared", "mapping", "posix")
        found = {name: digest(getattr(self, name)) for name in (*names, "copied")}
        for name in ("written", "mapped", "theirs", "deleted"):
            found[f"file {name}"] = digest(os.pread(getattr(self, name), SIZE, 0))
        attached = LIBC.shmat(self.segment, None, 0o10000)  # SHM_RDONLY
        found["segment"] = digest(ctypes.string_at(attached, SIZE))
        LIBC.shmdt(attached)
        return found


class Other:
    """A process that tells, when it is asked, what it holds."""

    def __init__(self, number: int, *, executes: bool = False) -> None:
        self.ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if not self.pid:
            self.ours.close()
            theirs.set_inheritable(True)
            live(theirs, number, executes=executes)
        theirs.close()

    def ask(self, word: str = "state") -> str:
        self.ours.sendall(word.encode().ljust(8))
        return self.ours.recv(100).decode()

    def end(self) -> None:
        """Others have copies of this end: closing it would tell nothing."""
        self.ours.sendall(b"end".ljust(8))
        self.ours.close()
        os.waitpid(self.pid, 0)


def live(asked: socket.socket, number: int, *, executes: bool) -> None:
    memory = private()
    while True:
        memory[place(number) : place(number) + PAGE] = page(number)[:PAGE]
        word = asked.recv(8)
        if word.strip() == b"end":
            os._exit(0)
        if word.strip() == b"next":
            number += 1
            if executes:
                asked.sendall(b"as another program")
                words = ("python3", "-I", sys.argv[0], str(asked.fileno()), str(number))
                os.execv("/usr/bin/python3", words)  # noqa: S606  # no shell is wanted
        asked.sendall(f"{number} {digest(memory)}".encode())


class Files:
    """Made, changed, renamed, deleted; links; one that is a directory every other round."""

    def __init__(self) -> None:
        (HOME / "unchanged").write_bytes(page(0) * 100)
        (HOME / "directory-0" / "deep").mkdir(parents=True)
        (HOME / "directory-0" / "deep" / "file").write_text("deep")
        (HOME / "either").write_text("a file")
        (HOME / "round-0").touch()

    def write(self, number: int) -> None:
        (HOME / f"round-{number}").write_bytes(page(number))
        (HOME / f"round-{number - 1}").unlink()
        with (HOME / "log").open("ab") as log:
            log.write(page(number))
        directory = (HOME / f"directory-{number - 1}").rename(HOME / f"directory-{number}")
        (directory / f"link-{number}").hardlink_to(directory / "deep" / "file")
        (directory / "deep" / "file").write_text(f"deep {number}")
        (HOME / "symbolic").unlink(missing_ok=True)
        (HOME / "symbolic").symlink_to(f"round-{number}")
        self._turn(HOME / "either", number)
        settings = Path("/etc/services")  # a file of the image
        settings.chmod(0o600 + number % 8)

    def _turn(self, path: Path, number: int) -> None:
        if number % 2:
            path.unlink()
            path.mkdir()
            (path / "inside").write_text(str(number))
        else:
            (path / "inside").unlink()
            path.rmdir()
            path.write_text(f"a file {number}")

    def read(self) -> dict[str, object]:
        return dict(self._each())

    def _each(self) -> Iterator[tuple[str, object]]:
        for path in (HOME, *sorted(HOME.rglob("*")), Path("/etc/services")):
            status = path.lstat()
            content = ""
            if stat.S_ISREG(status.st_mode):
                content = digest(path.read_bytes())
            elif stat.S_ISLNK(status.st_mode):
                content = str(path.readlink())
            links = 0 if stat.S_ISDIR(status.st_mode) else status.st_nlink
            numbers = [status.st_mode, status.st_mtime_ns, status.st_ino, links]
            yield str(path), [*numbers, content]


class Workload:
    """All of it, and how many rounds there were."""

    def __init__(self) -> None:
        self.round = 0
        self.memory, self.files = Memory(), Files()
        self.lasting, self.executing = Other(0), Other(0, executes=True)
        self.born: list[Other] = [Other(1000)]
        self.reborn, self.has_its_number = Other(2000), False

    def change(self) -> dict[str, object]:
        self.round += 1
        self.memory.write(self.round)
        self.files.write(self.round)
        self.lasting.ask("next")
        self.executing.ask("next")
        self.born.append(Other(1000 + self.round))
        if len(self.born) > 2:
            self.born.pop(0).end()
        self._bear_again()
        return {"round": self.round}

    def _bear_again(self) -> None:
        """Another process with the number of one that is gone, if numbers come round so soon."""
        before = self.reborn.pid
        self.reborn.end()
        for _ in range(NUMBERS):
            self.reborn = Other(2000 + self.round)
            if self.reborn.pid == before:
                break
            self.reborn.end()
        else:
            self.reborn = Other(2000 + self.round)
        self.has_its_number = self.reborn.pid == before

    def state(self) -> dict[str, object]:
        others = [self.lasting, self.executing, self.reborn, *self.born]
        return {
            "round": self.round,
            "same number": self.has_its_number,
            "memory": self.memory.read(),
            "files": self.files.read(),
            "processes": [[other.pid, other.ask()] for other in others],
        }


class Handler(BaseHTTPRequestHandler):
    """One request at a time."""

    workload: Workload

    def do_GET(self) -> None:  # the library's name
        answers = {"/change": self.workload.change, "/state": self.workload.state}
        body = json.dumps(answers[self.path]()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


def main() -> None:
    if len(sys.argv) == 3:  # executed by a process of ours
        live(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), executes=True)
    Handler.workload = Workload()
    HTTPServer(("", int(sys.argv[1])), Handler).serve_forever()


if __name__ == "__main__":
    main()
