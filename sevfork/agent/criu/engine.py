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
from pathlib import Path

from sevfork.agent import kernel
from sevfork.agent.afterfork import run_hooks
from sevfork.agent.container import inodes
from sevfork.agent.container.archive import Packer
from sevfork.agent.container.container import Container
from sevfork.agent.container.layer import LayerCopy
from sevfork.agent.criu import beside, rpc, wipe_on_fork
from sevfork.agent.criu.attempt import (
    BESIDE,
    COPY_TIMEOUT_S,
    DEVICE,
    OUTPUT,
    Attempt,
    read_log,
)
from sevfork.agent.criu.deleted import name_deleted_files
from sevfork.agent.criu.kept import Base, Kept
from sevfork.agent.criu.layers import Layers
from sevfork.agent.criu.memory import total_bytes
from sevfork.agent.criu.outflow import Nowhere
from sevfork.agent.criu.restore_failure import explain_restore
from sevfork.agent.engine import CaptureCost, Generation, OnStep, Sink, Source, TrackingLost
from sevfork.agent.step_times import StepTimes
from sevfork.agent.unexpected import place_of
from sevfork.errors import RestoreFailed, SevforkError, TimedOut, WrongState

log = logging.getLogger(__name__)

_WARM_UP_TIMEOUT_S = 60.0
# --auto-dedup gives the images' memory back as it is restored.
_RESTORE_OPTIONS = ("--auto-dedup", "--file-locks", "--manage-cgroups-mode", "ignore")
# Directories on tmpfs.
_CAPTURE, _WARM_UP, _RESTORE, _KEPT = "capture", "warm-up", "restore", "kept"
_IMAGES, _FILES = "images", "files"
_KEPT_PART = 16  # of the guest's memory, what is kept for an update may take one part in so many


class CriuEngine:
    """Captures and restores a container. One call at a time."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self._kept: Kept | None = None
        self._layers = Layers(container.state / _IMAGES, container.state / _FILES)

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

    def capture(self, sink: Sink, on_step: OnStep, *, keep: bool = False) -> CaptureCost:
        """Write the workload's state to the sink.

        Raises RefusedByGuest with the reason in words when CRIU cannot capture the workload,
        TimedOut, and whatever the sink raises. The workload runs on in any case.
        """
        with self._undisturbed() as scratch:
            self.forget()
            base = Base(LayerCopy(self.container.upper), incarnation=self.container.incarnation)
            return self._attempt(scratch, sink, on_step, base, keep=keep)

    def update(self, sink: Sink, on_step: OnStep) -> CaptureCost:
        """Write what has changed since the last capture that was kept.

        When what is kept turns out to be of no use, because of what processes did meanwhile, the
        update holds all memory. Raises TrackingLost, and what ``capture`` raises.
        """
        with self._undisturbed() as scratch:
            kept, self._kept = self._kept, None
            try:
                if kept is None or kept.base.incarnation != self.container.incarnation:
                    raise TrackingLost("there is no earlier capture that could be updated")
                return self._attempt(scratch, sink, on_step, kept.give(scratch), keep=True)
            finally:
                if self._kept is None:
                    self.forget()

    def forget(self) -> None:
        """The kernel has cleared its dirty bits since, or nobody wants an update."""
        self._kept = None
        shutil.rmtree(self.container.state / _KEPT, ignore_errors=True)

    @property
    def kept_bytes(self) -> int:
        return self._kept.size_bytes if self._kept else 0

    def _attempt(
        self, scratch: Path, sink: Sink, on_step: OnStep, base: Base, *, keep: bool
    ) -> CaptureCost:
        attempt = Attempt(self.container, scratch, Packer(sink), on_step, base)
        try:
            cost = attempt.run()
        finally:
            self.container.thaw()
        if keep:
            self._keep(attempt)
        return cost

    def _keep(self, attempt: Attempt) -> None:
        self._kept = attempt.keep(self.container.state / _KEPT)
        if self.kept_bytes > total_bytes() // _KEPT_PART:
            log.warning(
                "%d bytes are too much to keep: no update will be possible", self.kept_bytes
            )
            self.forget()

    @contextmanager
    def _undisturbed(self) -> Iterator[Path]:
        """Nobody else is at the running workload; an empty directory for a capture."""
        if not self.container.is_running:
            raise WrongState(f"the workload '{self.container.workload.name}' has ended")
        with self.container.undisturbed(COPY_TIMEOUT_S), self._scratch(_CAPTURE) as scratch:
            yield scratch

    def unpack(self, source: Source) -> None:
        """Read to the end of the source, which raises if it is not authentic."""
        self._layers.add(source)

    def discard(self) -> None:
        self._layers.clear()

    def settle(self) -> None:
        self._layers.settle()

    def resume(self, generation: Generation) -> None:
        """Restore what was unpacked, as the given generation, and run the after-fork hooks."""
        last, times = self._layers.last, StepTimes()
        try:
            with times.step("files"):
                self._fill_layer(last)
            with times.step("mounts"):
                self.container.prepare(int((last / DEVICE).read_text()))
                self.container.identify(generation)
            self.container.has_printed((last / OUTPUT).read_bytes())
            with times.step("wipe"):
                log.info("%d bytes wiped on fork", wipe_on_fork.wipe(last.parent, last.name))
            with times.step("comb"):
                self._layers.comb()
            with times.step("runc"):
                self._restore(last)
            with times.step("beside"):
                self._restore_what_criu_does_not(last)
            self.container.tell_anew()  # not before: CRIU checks the sizes of open files
        finally:
            self._layers.clear()
        with times.step("hooks"):
            run_hooks(self.container, self.container.workload.after_fork, generation)
        log.info("resumed: %s", times)

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
        for name in (_CAPTURE, _WARM_UP, _RESTORE, _KEPT):
            shutil.rmtree(self.container.state / name, ignore_errors=True)
        self._layers.clear()

    def _fill_layer(self, last: Path) -> None:
        """Make the workload's files of what was unpacked, each with its inode number."""
        filesystem = self.container.filesystem
        filesystem.new_layer()
        deleted = name_deleted_files(last)
        inodes.fill(filesystem.layer, self._layers.files, self._layers.names, deleted)

    def _restore_what_criu_does_not(self, last: Path) -> None:
        noted = (last / BESIDE).read_bytes()
        self.container.pause()  # what a descriptor stands for does not change meanwhile
        try:
            beside.apply(noted, self.container.processes())
        finally:
            self.container.resume()

    def _restore(self, last: Path) -> None:
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
