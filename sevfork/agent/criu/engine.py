"""The engine ``criu``: the workload's memory by CRIU, its files by ourselves.

A capture, in the order of the stream (``archive.py``):

1. CRIU copies the memory while the workload runs (a pre-dump; the workload stands still only while
   its pages are being marked). The pages and all files that the workload has written go out.
2. The same again, which leaves little to do for the end: only what changed during step 1.
3. CRIU freezes the workload and dumps the rest. When it says that it has everything and all is
   still frozen, the files that changed are copied aside. So memory and files are of one instant.
   The workload runs on, and what was put aside goes out.

What CRIU writes lies on the guest's tmpfs only, and each page is given back when it has gone out.
If anything fails, CRIU is told so, or finds its socket closed, and lets the workload run on.

CRIU's settings for the restore, which ``runc`` starts, are in the measured root:
``/etc/criu/runc.conf`` (from ``firmware/criu/runc.conf``). Those for a dump are below.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sevfork.agent import kernel
from sevfork.agent.afterfork import run_hooks
from sevfork.agent.container import bundle, inodes
from sevfork.agent.container.archive import Packer, Unpacker
from sevfork.agent.container.container import Container
from sevfork.agent.container.layer import LayerCopy
from sevfork.agent.criu import rpc, wipe_on_fork
from sevfork.agent.criu.comb import comb
from sevfork.agent.criu.deleted import name_deleted_files
from sevfork.agent.criu.memory import MemoryGuard, is_short, require_memory, resident_bytes
from sevfork.agent.criu.outflow import Outflow
from sevfork.agent.criu.refusal import explain
from sevfork.agent.criu.restore_failure import explain_restore
from sevfork.agent.criu.rpc import Criu, CriuRefused, OnNotify, Option, Request, Value
from sevfork.agent.engine import Capture, Generation, OnStep, Sink, Source
from sevfork.agent.unexpected import place_of
from sevfork.errors import RefusedByGuest, RestoreFailed, SevforkError, TimedOut, WrongState
from sevfork.wire.protocol import Step

log = logging.getLogger(__name__)

_WORTH_ANOTHER_COPY_S = 1.0  # a workload changes little in less
_TRIES = 3
_COPY_TIMEOUT_S = 300.0
_FREEZE_TIMEOUT_S = 120.0
_SEIZE_TIMEOUT_S = 10  # CRIU's own, for processes that do not stop (uninterruptible sleep)
_WARM_UP_TIMEOUT_S = 60.0
# --auto-dedup gives the images' memory back as it is restored.
_RESTORE_OPTIONS = ("--auto-dedup", "--file-locks", "--manage-cgroups-mode", "ignore")
_CAPTURE, _WARM_UP, _RESTORE = "capture", "warm-up", "restore"  # directories on tmpfs
_LAST = "last"
_LOG = "criu.log"
_DEVICE = "device"  # beside the images: the number that files of the container have
_ERRORS_AND_WARNINGS = 2
_GHOST_LIMIT_BYTES = 1 << 30  # open files whose name is gone; CRIU puts them into its images


@dataclass(frozen=True)
class CriuEngine:
    """Captures and restores a container. One call at a time."""

    container: Container
    _names: list[inodes.Name] = field(default_factory=list)

    def probe(self) -> str | None:
        """A capture that is thrown away: whatever CRIU refuses, it refuses now.

        Raises WrongState when the workload has ended; all else is a reason not to fork it.
        """
        try:
            self.capture(_Nowhere(), lambda _: None)
        except WrongState:
            raise
        except SevforkError as exc:
            return f"{exc.message}; {exc.hint}" if exc.hint else exc.message
        except Exception as exc:
            log.error("the trial capture failed unexpectedly: %s", place_of(exc))
            return f"a trial capture failed unexpectedly ({place_of(exc)})"
        return None

    def capture(self, sink: Sink, on_step: OnStep) -> Capture:
        """Write the workload's state to the sink.

        Raises RefusedByGuest with the reason in words when CRIU cannot capture the workload,
        TimedOut, and whatever the sink raises. The workload runs on in any case.
        """
        if not self.container.is_running:
            raise WrongState(f"the workload '{self.container.workload.name}' has ended")
        with self.container.undisturbed(_COPY_TIMEOUT_S), self._scratch(_CAPTURE) as scratch:
            try:
                return _Attempt(self.container, scratch, Packer(sink), on_step).run()
            finally:
                self.container.thaw()

    def unpack(self, source: Source) -> None:
        """Read to the end of the source, which raises if it is not authentic."""
        for directory in (self._images, self._files):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
        self._names[:] = Unpacker(self._images, self._files).read(source)

    def resume(self, generation: Generation) -> None:
        """Restore what was unpacked, as the given generation, and run the after-fork hooks."""
        try:
            self._fill_layer()
            self.container.prepare(int((self._images / _LAST / _DEVICE).read_text()))
            self.container.identify(generation)
            log.info("%d bytes wiped on fork", wipe_on_fork.wipe(self._images, _LAST))
            comb(self._images)
            self._restore()
        finally:
            shutil.rmtree(self._images, ignore_errors=True)
        run_hooks(self.container, self.container.workload.after_fork, generation)

    def warm_up(self) -> None:
        """Read the programs into the page cache, and let CRIU find out what the kernel can do.

        CRIU keeps what it found in /run/criu.kdat (measured: 0.5 s, emulated). This may run beside
        anything else.
        """
        for name in ("runc", "criu"):
            program = shutil.which(name)
            if program is not None:
                Path(program).read_bytes()
        with self._scratch(_WARM_UP) as scratch, rpc.running(scratch / "stderr") as criu:
            criu.learn_features(timeout_s=_WARM_UP_TIMEOUT_S)

    def clear(self) -> None:
        """Give back the memory that an earlier agent, which ended in the middle, has left taken.

        A CRIU that it had started finds its connection closed, and ends by itself.
        """
        rpc.release_held()
        for name in (_CAPTURE, _WARM_UP, _RESTORE):
            shutil.rmtree(self.container.state / name, ignore_errors=True)
        for directory in (self._images, self._files):
            shutil.rmtree(directory, ignore_errors=True)

    @property
    def _images(self) -> Path:
        return self.container.state / "images"

    @property
    def _files(self) -> Path:
        return self.container.state / "files"

    def _fill_layer(self) -> None:
        """Make the workload's files of what was unpacked, each with its inode number."""
        filesystem = self.container.filesystem
        filesystem.new_layer()
        deleted = name_deleted_files(self._images / _LAST)
        inodes.fill(filesystem.layer, self._files, self._names, deleted)
        shutil.rmtree(self._files)

    def _restore(self) -> None:
        last = self._images / _LAST
        with (
            self._scratch(_RESTORE) as work,
            kernel.binding_allowed(),
            kernel.reserving_allowed(),
        ):
            places = {"--bundle": self.container.bundle, "--image-path": last, "--work-path": work}
            words = [word for option in places.items() for word in option]
            try:
                self.container.runc_detached(
                    "restore", *_RESTORE_OPTIONS, *words, env=rpc.ENVIRONMENT
                )
            except TimedOut:
                raise
            except SevforkError as exc:
                why = explain_restore(_text(work / "restore.log"))
                message = f"the workload could not be restored: {why.reason}"
                raise RestoreFailed(message, hint=why.advice) from exc
        if not self.container.is_running:
            raise RestoreFailed("the restored workload ended at once")

    @contextmanager
    def _scratch(self, name: str) -> Iterator[Path]:
        """An empty directory on tmpfs that is gone afterwards."""
        directory = self.container.state / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True, mode=0o700)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


class _EarlierCopyUseless(RefusedByGuest):
    """A process has become another program (execve) since it was copied.

    Its vDSO lies elsewhere then, never counts as changed, and CRIU 4.2 looks for it in the earlier
    copy (mem.c, ``should_dump_entire_vma``; measured).
    """


@dataclass
class _Attempt:
    """One capture under way; ``scratch`` gets a directory for each of CRIU's copies."""

    container: Container
    scratch: Path
    packer: Packer
    on_step: OnStep
    _layer: LayerCopy = field(init=False)
    _copies: list[str] = field(default_factory=list)
    _pauses_ms: list[float] = field(default_factory=list)
    _memory_bytes: list[int] = field(default_factory=list)
    _frozen_at: float = 0.0
    _last: Outflow = field(init=False)

    def __post_init__(self) -> None:
        self._layer = LayerCopy(self.container.upper)

    def run(self) -> Capture:
        self.on_step(Step.COPY)
        file_bytes = self._send_files()
        frozen_file_bytes = self._copy_until_frozen()
        self.on_step(Step.EXPORT)
        self._send_images(_LAST, self._last)
        self.packer.append(self._spool)
        self.packer.end()
        return self._account(file_bytes, frozen_file_bytes)

    def _copy_until_frozen(self) -> int:
        """As ``_copy_and_freeze``, again from the start if the earlier copies were of no use."""
        for _ in range(_TRIES - 1):
            try:
                return self._copy_and_freeze()
            except _EarlierCopyUseless as exc:
                log.info("another try: %s", exc)
                self._copies.clear()
                shutil.rmtree(self.scratch / _LAST)
        return self._copy_and_freeze()

    def _copy_and_freeze(self) -> int:
        with rpc.running(self.scratch / "stderr") as criu:
            started = time.monotonic()
            self._copy_memory(criu)
            if time.monotonic() - started > _WORTH_ANOTHER_COPY_S:
                self._copy_memory(criu)
            self.on_step(Step.FREEZE)
            return self._freeze(criu)

    @property
    def _spool(self) -> Path:
        return self.scratch / "changed-files"

    def _copy_memory(self, criu: Criu) -> None:
        """Copy what changed since the last copy, while the workload runs, and send it out."""
        name = str(len(self._memory_bytes))
        with self._outflow(criu, name, frozen=False) as outflow:
            self._ask(criu, Request.PRE_DUMP, name)
        # Measured: one CRIU process adds its times up over all requests.
        total_ms = _frozen_ms(self.scratch / name / "stats-dump")
        earlier_ms = self._pauses_ms[-1] if len(self._copies) > 1 else 0
        self._pauses_ms.append(total_ms - earlier_ms)
        self._send_images(name, outflow)

    def _send_files(self) -> int:
        before = self.packer.size_bytes
        self._layer.copy_running(self.packer, self.container.mapped_inodes)
        return self.packer.size_bytes - before

    def _freeze(self, criu: Criu) -> int:
        """The rest, with the workload frozen; return how many bytes of files were copied then."""
        with self._spool.open("wb") as spool:
            aside = Packer(MemoryGuard(spool))

            def on_notify(script: str) -> None:
                if script == "pre-dump":
                    self._frozen_at = time.monotonic()
                elif script == "post-dump":
                    self._layer.copy_frozen(aside, self.container.mapped_inodes)

            self._frozen_at = time.monotonic()
            self._last = self._outflow(criu, _LAST, frozen=True)
            try:
                with self._last:
                    self._ask(criu, Request.DUMP, _LAST, on_notify)
            finally:
                self._pauses_ms.append((time.monotonic() - self._frozen_at) * 1000)
        (self.scratch / _LAST / "descriptors.json").write_text(json.dumps(bundle.descriptors()))
        (self.scratch / _LAST / _DEVICE).write_text(str(self.container.filesystem.device))
        return aside.size_bytes

    def _ask(self, criu: Criu, kind: Request, name: str, on_notify: OnNotify | None = None) -> None:
        """One copy into the directory ``name``. Raise RefusedByGuest when CRIU refuses."""
        require_memory(resident_bytes(self.container.processes()))
        directory = self.scratch / name
        directory.mkdir(mode=0o700)
        options = self._options(directory)
        timeout_s = _FREEZE_TIMEOUT_S if kind is Request.DUMP else _COPY_TIMEOUT_S
        try:
            criu.request(kind, options, timeout_s=timeout_s, on_notify=on_notify)
        except CriuRefused as exc:
            raise self._why(directory / _LOG) from exc
        self._copies.append(name)

    def _why(self, log_file: Path) -> SevforkError:
        if not self.container.is_running:
            return WrongState(f"the workload '{self.container.workload.name}' has ended")
        text = _text(log_file)
        if "in parent pagemap" in text:
            return _EarlierCopyUseless(
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
            options[Option.PARENT_IMG] = f"../{self._copies[-1]}"
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
        return Outflow(self.packer, directory, prefix, criu.hold, is_short, frozen)

    def _account(self, file_bytes: int, frozen_file_bytes: int) -> Capture:
        return Capture(
            pause_ms=self._pauses_ms[-1],
            earlier_pauses_ms=tuple(self._pauses_ms[:-1]),
            memory_bytes=sum(self._memory_bytes),
            frozen_memory_bytes=self._memory_bytes[-1],
            file_bytes=file_bytes + frozen_file_bytes,
            frozen_file_bytes=frozen_file_bytes,
        )


class _Nowhere:
    """A sink for a trial."""

    def write(self, data: bytes, /) -> object:
        return len(data)


def _text(log_file: Path) -> str:
    return log_file.read_text(errors="replace") if log_file.exists() else ""


def _frozen_ms(stats: Path) -> float:
    """From CRIU's ``stats-dump``: the time to freeze and the time frozen, in microseconds.

    Two magic numbers (u32), a size (u32), then ``stats_entry``: 1 = dump { 1 = freezing_time,
    2 = frozen_time, ... } (images/stats.proto).
    """
    entry = rpc.decode(stats.read_bytes()[12:])
    times = rpc.decode(rpc.blob(entry.get(1, b"")))
    return sum(rpc.number(times.get(field, 0)) for field in (1, 2)) / 1000
