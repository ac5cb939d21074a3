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
``/etc/criu/runc.conf`` (from ``firmware/criu/runc.conf``). Those for a dump are in ``attempt.py``.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sevfork.agent import kernel
from sevfork.agent.afterfork import run_hooks
from sevfork.agent.container import inodes
from sevfork.agent.container.archive import Packer, Unpacker
from sevfork.agent.container.container import Container
from sevfork.agent.criu import beside, rpc, wipe_on_fork
from sevfork.agent.criu.attempt import BESIDE, COPY_TIMEOUT_S, DEVICE, LAST, Attempt, read_log
from sevfork.agent.criu.comb import comb
from sevfork.agent.criu.deleted import name_deleted_files
from sevfork.agent.criu.outflow import Nowhere
from sevfork.agent.criu.restore_failure import explain_restore
from sevfork.agent.engine import CaptureCost, Generation, OnStep, Sink, Source
from sevfork.agent.unexpected import place_of
from sevfork.errors import RestoreFailed, SevforkError, TimedOut, WrongState

log = logging.getLogger(__name__)

_WARM_UP_TIMEOUT_S = 60.0
# --auto-dedup gives the images' memory back as it is restored.
_RESTORE_OPTIONS = ("--auto-dedup", "--file-locks", "--manage-cgroups-mode", "ignore")
_CAPTURE, _WARM_UP, _RESTORE = "capture", "warm-up", "restore"  # directories on tmpfs


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
            self.capture(Nowhere(), lambda _: None)
        except WrongState:
            raise
        except SevforkError as exc:
            return f"{exc.message}; {exc.hint}" if exc.hint else exc.message
        except Exception as exc:
            log.error("the trial capture failed unexpectedly: %s", place_of(exc))
            return f"a trial capture failed unexpectedly ({place_of(exc)})"
        return None

    def capture(self, sink: Sink, on_step: OnStep) -> CaptureCost:
        """Write the workload's state to the sink.

        Raises RefusedByGuest with the reason in words when CRIU cannot capture the workload,
        TimedOut, and whatever the sink raises. The workload runs on in any case.
        """
        if not self.container.is_running:
            raise WrongState(f"the workload '{self.container.workload.name}' has ended")
        with self.container.undisturbed(COPY_TIMEOUT_S), self._scratch(_CAPTURE) as scratch:
            try:
                return Attempt(self.container, scratch, Packer(sink), on_step).run()
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
            self.container.prepare(int((self._images / LAST / DEVICE).read_text()))
            self.container.identify(generation)
            log.info("%d bytes wiped on fork", wipe_on_fork.wipe(self._images, LAST))
            comb(self._images)
            self._restore()
            self._restore_what_criu_does_not()
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
        deleted = name_deleted_files(self._images / LAST)
        inodes.fill(filesystem.layer, self._files, self._names, deleted)
        shutil.rmtree(self._files)

    def _restore_what_criu_does_not(self) -> None:
        noted = (self._images / LAST / BESIDE).read_bytes()
        self.container.pause()  # what a descriptor stands for does not change meanwhile
        try:
            beside.apply(noted, self.container.processes())
        finally:
            self.container.resume()

    def _restore(self) -> None:
        last = self._images / LAST
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
                why = explain_restore(read_log(work / "restore.log"))
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
