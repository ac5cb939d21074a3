"""One capture: copies of the memory while the workload runs, then the rest of it frozen."""

from __future__ import annotations

import json
import logging
import shutil
import time
from pathlib import Path

from sevfork.agent.container.archive import Packer
from sevfork.agent.container.container import Container
from sevfork.agent.criu import beside, rpc, unsupported
from sevfork.agent.criu.dirty import dirty_bytes
from sevfork.agent.criu.kept import Base, Copy, Kept
from sevfork.agent.criu.layers import LAST, copy_name
from sevfork.agent.criu.lives import forget_strangers, lives_of
from sevfork.agent.criu.memory import (
    MemoryGuard,
    require_memory,
    require_room_in_child,
    require_window,
    resident_bytes,
    spare_bytes,
)
from sevfork.agent.criu.outflow import Outflow
from sevfork.agent.criu.refusal import explain
from sevfork.agent.criu.rpc import Criu, CriuRefused, OnNotify, Option, Request, Value
from sevfork.agent.engine import CaptureCost, OnStep
from sevfork.errors import RefusedByGuest, SevforkError, WrongState
from sevfork.wire.protocol import Step

log = logging.getLogger(__name__)

# What lies in the directory of the final copy beside CRIU's images.
DEVICE = "device"  # the number that files of the container have
OUTPUT = "output"  # what the workload has printed
BESIDE = "beside"  # what CRIU does not carry (``beside.py``)
_LOG = "criu.log"
# Another copy while the workload runs has a pause too. In as long CRIU dumps about as much as this
# when all is frozen (measured), so it is worth it for more.
_WORTH_A_COPY_BYTES = 8 << 20
_COPIES = 2  # while it runs, at most: some workloads write faster
_TRIES = 3
COPY_TIMEOUT_S = 300.0
_FREEZE_TIMEOUT_S = 120.0
_SEIZE_TIMEOUT_S = 10  # CRIU's own, for processes that do not stop (uninterruptible sleep)
_ERRORS_AND_WARNINGS = 2
_GHOST_LIMIT_BYTES = 1 << 30  # open files whose name is gone; CRIU puts them into its images


class _TryAgain(RefusedByGuest):
    """A moment's state is in the way, which another try need not meet."""


class Attempt:
    """One capture under way; ``scratch`` gets a directory for each of CRIU's copies.

    ``base`` is what it builds on; where that is a copy, it lies in ``scratch`` too.
    """

    _last: Outflow

    def __init__(
        self, container: Container, scratch: Path, packer: Packer, on_step: OnStep, base: Base
    ) -> None:
        self.container, self.scratch, self.packer = container, scratch, packer
        self.on_step, self.base = on_step, base
        self._copies: list[Copy] = [base.copy] if base.copy else []
        self._pauses_ms: list[float] = []
        self._memory_bytes: list[int] = []
        self._count = 0  # of the copies that were begun
        self._printed = 0  # how much, when all was frozen
        self._frozen_at = self._criu_ms = 0.0

    def run(self) -> CaptureCost:
        self.on_step(Step.COPY)
        file_bytes = self._send_files()
        frozen_file_bytes = self._copy_until_frozen()
        self.on_step(Step.EXPORT)
        self._send_images(self._last_name, self._last)
        held = resident_bytes(self.container.processes())
        require_room_in_child(sum(self._memory_bytes), held)
        self.packer.append(self._spool)
        self.packer.end()
        return self._account(file_bytes, frozen_file_bytes)

    def keep(self, place: Path) -> Kept:
        """After ``run``: what the next capture can build on, in the directory ``place``."""
        return Kept.take(self.base, self._copies[-1], self.scratch, place)

    def _copy_until_frozen(self) -> int:
        """As ``_copy_and_freeze``, again from the start if the earlier copies were of no use."""
        for _ in range(_TRIES - 1):
            try:
                return self._copy_and_freeze()
            except _TryAgain as exc:
                log.info("another try: %s", exc)
                self._start_anew()
        return self._copy_and_freeze()

    def _start_anew(self) -> None:
        """Build on nothing: neither on the copies so far nor on the layer before."""
        self._copies.clear()
        for path in self.scratch.iterdir():
            if path.is_dir():
                shutil.rmtree(path)

    def _copy_and_freeze(self) -> int:
        require_memory(resident_bytes(self.container.processes()))
        with rpc.running(self.scratch / "stderr") as criu:
            self._criu_ms = 0.0
            for _ in range(_COPIES):
                if self._is_worth_a_copy():
                    self._copy_memory(criu)
            self.on_step(Step.FREEZE)
            return self._freeze(criu)

    def _is_worth_a_copy(self) -> bool:
        """Whether there is much that no copy has."""
        if not self._copies:
            return True
        left, before = _WORTH_A_COPY_BYTES, self._copies[-1].lives
        for number, life in lives_of(self.container.processes()).items():
            if before.get(number) != life:
                left -= resident_bytes([life.pid])
            elif left > 0:
                left -= dirty_bytes(life.pid, left)
        return left <= 0

    @property
    def _last_name(self) -> str:
        return copy_name(self.base.layer, LAST)

    @property
    def _spool(self) -> Path:
        return self.scratch / "changed-files"

    def _copy_memory(self, criu: Criu) -> None:
        """Copy what changed since the last copy, while the workload runs, and send it out."""
        name = copy_name(self.base.layer, self._count)
        self._count += 1
        with self._outflow(criu, name, frozen=False) as outflow:
            self._ask(criu, Request.PRE_DUMP, name)
        # Measured: one CRIU process adds its times up over all requests.
        total_ms = _frozen_ms(self.scratch / name / "stats-dump")
        self._pauses_ms.append(total_ms - self._criu_ms)
        self._criu_ms = total_ms
        self._send_images(name, outflow)

    def _send_files(self) -> int:
        before = self.packer.size_bytes
        self.base.files.copy_running(self.packer, self.container.mapped_inodes)
        return self.packer.size_bytes - before

    def _freeze(self, criu: Criu) -> int:
        """The rest, with the workload frozen; return how many bytes of files were copied then."""
        unsupported.check(self.container.processes(), self.container.root)
        noted = beside.note(self.container.processes())
        with self._spool.open("wb") as spool:
            aside = Packer(MemoryGuard(spool))

            def on_notify(script: str) -> None:
                if script == "pre-dump":
                    self._frozen_at = time.monotonic()
                elif script == "post-dump":
                    if unsupported.datagrams_wait():
                        refusal = unsupported.DATAGRAM
                        raise _TryAgain(refusal.reason, hint=refusal.advice)
                    self._printed = self.container.printed()
                    self.base.files.copy_frozen(aside, self.container.mapped_inodes)

            self._frozen_at = time.monotonic()
            self._last = self._outflow(criu, self._last_name, frozen=True)
            try:
                with self._last:
                    self._ask(criu, Request.DUMP, self._last_name, on_notify)
            finally:
                self._pauses_ms.append((time.monotonic() - self._frozen_at) * 1000)
        last = self.scratch / self._last_name
        (last / "descriptors.json").write_text(json.dumps(self.container.descriptors()))
        (last / OUTPUT).write_bytes(self.container.printed_until(self._printed))
        (last / BESIDE).write_bytes(noted)
        (last / DEVICE).write_text(str(self.container.filesystem.device))
        return aside.size_bytes

    def _ask(self, criu: Criu, kind: Request, name: str, on_notify: OnNotify | None = None) -> None:
        """One copy into the directory ``name``. Raise RefusedByGuest when CRIU refuses."""
        processes = self.container.processes()
        require_window(resident_bytes(processes))
        lives = lives_of(processes)
        if self._copies:
            earlier = self._copies[-1]
            forget_strangers(self.scratch / earlier.name, earlier.lives, lives)
        directory = self.scratch / name
        directory.mkdir(mode=0o700)
        options = self._options(directory)
        timeout_s = _FREEZE_TIMEOUT_S if kind is Request.DUMP else COPY_TIMEOUT_S
        try:
            criu.request(kind, options, timeout_s=timeout_s, on_notify=on_notify)
        except CriuRefused as exc:
            raise self._why(directory / _LOG) from exc
        self._copies.append(Copy(name, lives))

    def _why(self, log_file: Path) -> SevforkError:
        if not self.container.is_running:
            return WrongState(f"the workload '{self.container.workload.name}' has ended")
        text = read_log(log_file)
        # What ``lives.py`` says of execve has happened since it was looked at; or memory was not
        # readable when it was copied, and is now.
        if "in parent pagemap" in text:
            return _TryAgain(
                "the workload starts other programs faster than CRIU can copy it",
                hint="try again when it is less busy",
            )
        refusal = explain(text, self.container.held_objects())
        return RefusedByGuest(refusal.reason, hint=refusal.advice)

    def _options(self, directory: Path) -> dict[Option, Value]:
        options: dict[Option, Value] = {
            Option.IMAGES_DIR_FD: -1,
            Option.IMAGES_DIR: str(directory),
            Option.LOG_FILE: _LOG,
            Option.LOG_LEVEL: _ERRORS_AND_WARNINGS,
            Option.PID: self.container.pid,
            # No FREEZE_CGROUP: CRIU then asks every 100 ms whether all is frozen (measured: most of
            # a pre-dump's pause). Without it, each task is stopped by ptrace, parents first.
            Option.ROOT: str(self.container.root),
            Option.MANAGE_CGROUPS_MODE: rpc.CGROUPS_IGNORE,  # runc makes the child's
            Option.LEAVE_RUNNING: True,
            Option.NOTIFY_SCRIPTS: True,
            Option.TRACK_MEM: True,
            Option.PRE_DUMP_MODE: rpc.PRE_DUMP_BY_READING,
            Option.TIMEOUT: _SEIZE_TIMEOUT_S,
            Option.FILE_LOCKS: True,
            # Where CRIU looks for a file that is watched with inotify: an overlay cannot tell.
            Option.IRMAP_SCAN_PATHS: self.container.workload.writable,
            Option.LINK_REMAP: True,
            Option.GHOST_LIMIT: _GHOST_LIMIT_BYTES,
            Option.ORPHAN_PTS_MASTER: True,
            # Established connections are not touched here and are closed in the child.
            Option.TCP_CLOSE: True,
            Option.TCP_SKIP_IN_FLIGHT: True,
            Option.NETWORK_LOCK: rpc.NETWORK_LOCK_SKIP,
        }
        if self._copies:
            options[Option.PARENT_IMG] = f"../{self._copies[-1].name}"
        return options

    def _send_images(self, name: str, outflow: Outflow) -> None:
        """Send the rest of a copy out. What may be large is given back to the guest."""
        directory, memory_bytes = self.scratch / name, outflow.finish()
        for path in sorted(directory.iterdir()):
            member = f"images/{name}/{path.name}"
            if path.is_symlink():
                self.packer.add_symbolic_link(member, str(path.readlink()))
            elif path.name.startswith("ghost-file-"):
                memory_bytes += path.stat().st_size
                self.packer.move_in(member, path)
            elif path.name != _LOG and not path.name.startswith("pages-"):
                self.packer.add_content(member, path.read_bytes())
        self._memory_bytes.append(memory_bytes)

    def _outflow(self, criu: Criu, name: str, *, frozen: bool) -> Outflow:
        directory, prefix = self.scratch / name, f"images/{name}/"
        return Outflow(self.packer, directory, prefix, criu.hold, spare_bytes, frozen)

    def _account(self, file_bytes: int, frozen_file_bytes: int) -> CaptureCost:
        return CaptureCost(
            pause_ms=self._pauses_ms[-1],
            earlier_pauses_ms=tuple(self._pauses_ms[:-1]),
            memory_bytes=sum(self._memory_bytes),
            frozen_memory_bytes=self._memory_bytes[-1],
            file_bytes=file_bytes + frozen_file_bytes,
            frozen_file_bytes=frozen_file_bytes,
        )


def read_log(log_file: Path) -> str:
    return log_file.read_text(errors="replace") if log_file.exists() else ""


def _frozen_ms(stats: Path) -> float:
    """From CRIU's ``stats-dump``: the time to freeze and the time frozen, in microseconds.

    Two magic numbers (u32), a size (u32), then ``stats_entry``: 1 = dump { 1 = freezing_time,
    2 = frozen_time, ... } (images/stats.proto).
    """
    entry = rpc.decode(stats.read_bytes()[12:])
    times = rpc.decode(rpc.blob(entry.get(1, b"")))
    return sum(rpc.number(times.get(field, 0)) for field in (1, 2)) / 1000
