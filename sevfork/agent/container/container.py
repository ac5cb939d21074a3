"""The workload's container: an overlay on a part of the measured root, run by ``runc``.

Standard input is the container's own ``/dev/null``, and so are the others where the image says
``logs = "none"``; else a pipe that the agent reads (``output.py``). Nothing that is printed reaches
the serial console, which the host reads. A command may leave a daemon behind: nobody waits for the
end of what it prints.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct, field

from sevfork import process
from sevfork.agent.container import adopt, bundle, readiness, users
from sevfork.agent.container.adopt import Ended
from sevfork.agent.container.hosts import name_host
from sevfork.agent.container.layer import inodes_of, shared_mappings
from sevfork.agent.container.output import Output, Piece
from sevfork.agent.container.rootfs import RootFilesystem
from sevfork.agent.container.tree import (
    append_file,
    make_directory,
    parent_of,
    remove,
    resolve,
    write_file,
)
from sevfork.agent.engine import Generation
from sevfork.agent.workload import Workload
from sevfork.deadline import Deadline
from sevfork.errors import RefusedByGuest, SevforkError, TimedOut

log = logging.getLogger(__name__)

STATE = Path("/run/sevfork")
GENERATION_FILE = "run/sevfork/generation"
CHILDREN_FILE = "run/sevfork/children"
_ID = "workload"
_CGROUP = "/sevfork/workload"
_CGROUP_DIRECTORY = Path("/sys/fs/cgroup") / _CGROUP.removeprefix("/")
_START_TIMEOUT_S = 60.0
_SHORT_TIMEOUT_S = 30.0
_POLL_S = 0.05
_SEE_PRINTED = 'the image says so: build one with logs = "host" in the workload file'
_DROPPED = '(what it printed is dropped: the image was built with logs = "none")'
_OWNERS = '(what it printed is its owner\'s to read: the image was built with logs = "guest")'


class Container(Struct, frozen=True):
    """One workload and its files. ``busy`` is held by whoever must have it undisturbed.

    ``lower``: what of the measured root the workload sees as its own (``measured.py``).
    """

    workload: Workload
    state: Path = STATE
    busy: threading.RLock = field(default_factory=threading.RLock)
    output: Output | None = None  # None: what is printed is dropped
    lower: Path = Path("/")

    @property
    def filesystem(self) -> RootFilesystem:
        return RootFilesystem(self.state / "layer", self.state / "root", self.lower)

    @property
    def upper(self) -> Path:
        """What the workload has written."""
        return self.filesystem.upper

    @property
    def root(self) -> Path:
        """The workload's root directory: the upper layer on the lower one."""
        return self.filesystem.root

    @property
    def bundle(self) -> Path:
        return self.state / "bundle"

    @property
    def cgroup(self) -> Path:
        return _CGROUP_DIRECTORY

    @property
    def pid(self) -> int:
        """Of the container's first process, in the guest's numbers."""
        return int((self.state / "pid").read_text())

    @property
    def incarnation(self) -> tuple[int, int]:
        """Another one each time that it is started or restored."""
        status = (self.state / "pid").stat()
        return status.st_ino, status.st_mtime_ns

    @property
    def is_running(self) -> bool:
        with suppress(FileNotFoundError):
            return "populated 1" in (self.cgroup / "cgroup.events").read_text()
        return False

    def start(self, generation: Generation | None = None) -> None:
        """Make the root file system and run the workload's command in it."""
        self.filesystem.new_layer()
        self.prepare()
        self.identify(generation or Generation(0, secrets.token_bytes(16)))
        self.tell_anew()
        user = users.find(self.lower, self.workload.user)
        for path in self.workload.writable:
            place = resolve(self.root, path)
            if not (self.root / place).is_dir():
                make_directory(self.root, place, user.uid, user.gid)
        self._leave_streams_to_runc()
        self.runc_detached("run", "--bundle", self.bundle)

    def _leave_streams_to_runc(self) -> None:
        """It makes these links, and fails where one is there that leads to a pipe (runc 1.3)."""
        with parent_of(self.root, "dev/fd", create=True) as (directory, _):
            for name in ("stdin", "stdout", "stderr"):
                remove(directory, name)

    def restart(self) -> None:
        """Run the workload's command again, in the root as it is; not while a capture is made."""
        with self.busy:
            adopt.end(self.pid)
            self._runc("delete", "--force", _ID, timeout_s=_SHORT_TIMEOUT_S)
            self._leave_streams_to_runc()
            self.runc_detached("run", "--bundle", self.bundle)

    def prepare(self, device: int | None = None) -> None:
        """Mount the root on what the layer holds, as that device, and write the bundle."""
        self.bundle.mkdir(parents=True, exist_ok=True)
        user = users.find(self.lower, self.workload.user)
        content = bundle.config(self.workload, user, str(self.root), _CGROUP)
        (self.bundle / "config.json").write_text(json.dumps(content))
        self.filesystem.mount(device)
        _forbid_user_namespaces()

    def identify(self, generation: Generation) -> None:
        """Give the container's files this guest's own identity, and the generation.

        The files stay the same ones and keep their sizes, which CRIU checks of open files.
        """
        write_file(self.root, GENERATION_FILE, generation.page(), 0o444)
        write_file(self.root, "etc/machine-id", f"{secrets.token_hex(16)}\n".encode(), 0o444)
        host_name = socket.gethostname()
        write_file(self.root, "etc/hostname", f"{host_name}\n".encode())
        name_host(self.root, host_name)

    def tell(self, line: bytes) -> int:
        """One more line about a child, for the workload to read; the file's size then, in bytes."""
        return append_file(self.root, CHILDREN_FILE, line, 0o444)

    def tell_anew(self, lines: bytes = b"") -> None:
        """What stands in that file in place of all before; it stays the same file."""
        write_file(self.root, CHILDREN_FILE, lines, 0o444)

    def wait_ready(self, timeout_s: float | None = None) -> None:
        """Wait until the workload answers. Raise TimedOut, or WrongState when it has ended."""
        readiness.wait(self, self.workload, timeout_s or self.workload.ready_timeout_s)

    def ended(self) -> Ended:
        """How the workload ended, which is how its first process did: the rest dies with that one.

        For a workload that runs no more; may be asked again. Raise SevforkError where it is not
        known: an agent before this one has started it. Also for one that CRIU has restored, whose
        first process is the agent's by ``adopt`` as any other is.
        """
        late = "the workload has ended, and its first process has not"
        for _ in Deadline.after(_SHORT_TIMEOUT_S).poll(_POLL_S, late):
            if found := adopt.look(self.pid):
                return found
        raise AssertionError("a poll ends with TimedOut")

    def exec(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        timeout_s: float,
        drop: bool = False,
    ) -> Ended:
        """Run a command inside, as the workload's user, and wait for it alone. Raise TimedOut.

        What it prints is with what the workload prints, or dropped, and what it leaves running goes
        on.
        """
        deadline = Deadline.after(timeout_s)
        assignments = [f"--env={name}={value}" for name, value in (env or {}).items()]
        pid_file = self.state / "exec.pid"
        words: list[str | Path] = [
            "exec",
            "--detach",
            "--pid-file",
            pid_file,
            *assignments,
            _ID,
            *argv,
        ]
        with self.busy, self._null() as null, adopt.adopting():
            printed = null if drop or not self.output else self.output.writing
            returncode = self._runc_with(null, printed, printed, words, timeout_s=timeout_s)
            if returncode:
                return Ended(returncode)
            pid = int(pid_file.read_text())
            try:
                return adopt.wait(pid, deadline)
            except TimedOut:
                adopt.end(pid)
                raise

    def read_output(self, offset: int, limit: int) -> Piece:
        """What the workload has printed. Raise RefusedByGuest where it is dropped."""
        if self.output is None:
            raise RefusedByGuest("what this workload prints is dropped", hint=_SEE_PRINTED)
        return self.output.tail.read(offset, limit)

    def last_words(self, since: int = 0) -> str:
        """The last lines that were printed, for an error that the host reads; or who has them."""
        if self.output is None:
            return _DROPPED
        return self.output.last_lines(since) if self.workload.logs == "host" else _OWNERS

    def printed(self) -> int:
        """How many bytes, while nothing prints."""
        return self.output.position() if self.output else 0

    def printed_until(self, position: int) -> bytes:
        """For a child; empty where nothing is kept."""
        if self.output is None:
            return b""
        self.output.settle(position)
        return self.output.tail.until(position)

    def has_printed(self, state: bytes) -> None:
        """In a child: what its parent's workload had printed."""
        if self.output is not None:
            self.output.tail.resume(state)

    def descriptors(self) -> list[str]:
        """runc's ``descriptors.json``: where the standard streams lead, as runc would see it."""
        printed = self.output.name if self.output else os.devnull
        return [os.devnull, printed, printed]

    def begin(self, argv: Sequence[str], streams: tuple[int, int, int]) -> int:
        """Start a command inside, as the workload's user; its process id, which ``adopt`` knows."""
        pid_file = self.state / "session.pid"
        words: list[str | Path] = ["exec", "--detach", "--pid-file", pid_file, _ID, *argv]
        with self.busy, adopt.adopting():
            if self._runc_with(*streams, words, timeout_s=_SHORT_TIMEOUT_S):
                raise RefusedByGuest(f"'{argv[0]}' cannot be run: {_last_message(self._log)}")
        return int(pid_file.read_text())

    def pause(self) -> None:
        self._freeze("1")

    def resume(self) -> None:
        self._freeze("0")

    def thaw(self) -> None:
        """Whatever went wrong before: nothing of the workload stays frozen."""
        if self.is_running:
            self.resume()

    def _freeze(self, wanted: str) -> None:
        (self.cgroup / "cgroup.freeze").write_text(wanted)
        late = "the workload could not be frozen or thawed in time"
        for _ in Deadline.after(_SHORT_TIMEOUT_S).poll(0.001, late):
            if f"frozen {wanted}" in (self.cgroup / "cgroup.events").read_text():
                return

    def stop(self, force: bool) -> None:
        """Its first process gets the stop signal; with ``force`` all of it is ended."""
        if force:
            (self.cgroup / "cgroup.kill").write_text("1")
        else:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.Signals[self.workload.stop_signal])

    def kill(self) -> None:
        """End the workload and forget its files; no matter what was there."""
        self._runc("delete", "--force", _ID, timeout_s=_SHORT_TIMEOUT_S, check=False)
        with suppress(SevforkError):
            self.filesystem.unmount()

    def processes(self) -> list[str]:
        """The workload's, by their numbers in the guest."""
        return (self.cgroup / "cgroup.procs").read_text().split()

    def mapped_inodes(self) -> frozenset[int]:
        """Files of the upper layer that the workload maps shared and writable."""
        paths: set[str] = set()
        for pid in self.processes():
            with suppress(FileNotFoundError, ProcessLookupError):
                maps = Path("/proc", pid, "maps").read_bytes()
                paths.update(shared_mappings(os.fsdecode(maps)))
        return inodes_of(self.upper, paths)

    def held_objects(self) -> frozenset[str]:
        """Kernel objects without a name that the workload has open: ``eventfd``, ``io_uring``..."""
        found: set[str] = set()
        for pid in self.processes():
            for entry in Path("/proc", pid, "fd").glob("*"):
                with suppress(OSError):
                    target = os.readlink(entry)  # noqa: PTH115  # not a path
                    if target.startswith("anon_inode:"):
                        found.add(target.removeprefix("anon_inode:").strip("[]"))
        return frozenset(found)

    def runc_detached(
        self, verb: str, *words: str | Path, env: Mapping[str, str] | None = None
    ) -> None:
        """``runc run`` or ``runc restore``; the workload's streams are those of the command."""
        options: list[str | Path] = ["--detach", "--pid-file", self.state / "pid"]
        with Path(os.devnull).open("r+b") as file, adopt.adopting():
            null = file.fileno()
            printed = self.output.writing if self.output else null
            argv = [verb, *options, *words, _ID]
            returncode = self._runc_with(
                null, printed, printed, argv, timeout_s=_START_TIMEOUT_S, env=env
            )
        if returncode:
            raise SevforkError(f"runc {verb}: {_last_message(self._log)}")

    def _runc_with(
        self,
        stdin: int,
        stdout: int,
        stderr: int,
        words: Sequence[str | Path],
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Run runc with these standard streams, which what it starts inside inherits."""
        self._log.unlink(missing_ok=True)
        argv = [*self._runc_words(), *words]
        with process.spawn(argv, stdin=stdin, stdout=stdout, stderr=stderr, env=env) as child:
            try:
                return child.wait(timeout_s)
            except process.StillRunning as exc:
                raise TimedOut(f"'runc {words[0]}' did not finish in {timeout_s:g} s") from exc

    @contextmanager
    def _null(self) -> Iterator[int]:
        """The container's own ``/dev/null``: what is of another mount, CRIU cannot restore."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            with parent_of(Path("/proc", str(self.pid), "root", "dev"), "null") as (dev, name):
                null = os.open(name, flags, dir_fd=dev)
        except OSError as exc:
            raise RefusedByGuest("the container has no '/dev/null' any more") from exc
        try:
            if os.fstat(null).st_rdev != Path(os.devnull).stat().st_rdev:
                raise RefusedByGuest("'/dev/null' in the container is something else")
            yield null
        finally:
            os.close(null)

    def _runc(self, *words: str | Path, timeout_s: float, check: bool = True) -> process.Completed:
        argv = [*self._runc_words(), *words]
        return process.run(argv, timeout_s=timeout_s, check=check)

    @property
    def _log(self) -> Path:
        return self.state / "runc.log"

    def _runc_words(self) -> list[str | Path]:
        return ["runc", "--root", self.state / "runc", "--log", self._log, "--log-format", "json"]

    @contextmanager
    def undisturbed(self, timeout_s: float) -> Iterator[None]:
        """No other command runs inside meanwhile: CRIU could not place its process."""
        if not self.busy.acquire(timeout=timeout_s):
            raise TimedOut("the container is busy")
        try:
            yield
        finally:
            self.busy.release()


def _last_message(failure: Path) -> str:
    """The message of the last line of runc's log, which is JSON."""
    with suppress(FileNotFoundError, IndexError, ValueError, KeyError):
        return str(json.loads(failure.read_text().splitlines()[-1])["msg"])
    return "failed without saying why"


def _forbid_user_namespaces() -> None:
    """In a user namespace of its own a workload would have every capability over it."""
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
