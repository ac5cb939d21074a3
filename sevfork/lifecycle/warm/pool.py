"""``sevfork pool``: so many warm children of a VM, kept current until it is told to stop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from sevfork.deadline import Deadline
from sevfork.domain.spec import GuestSpec
from sevfork.errors import HypervisorUnreachable, SevforkError, WrongState
from sevfork.host import maker
from sevfork.host.hypervisor import Hypervisor
from sevfork.lifecycle.find import running_vm
from sevfork.lifecycle.fork.plan import ForkRequest, plan_fork
from sevfork.lifecycle.gathered import Gather, as_it_is
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.parent import parent_of
from sevfork.lifecycle.progress import logged, unwatched
from sevfork.lifecycle.remove import remove_domain
from sevfork.lifecycle.snapshot.update import update_of
from sevfork.lifecycle.snapshot.volume import PluggedSnapshot, plugged_snapshot
from sevfork.lifecycle.warm.find import WarmVm, as_warm, warm_children
from sevfork.lifecycle.warm.make import Freshness, make_warm, refresh, remove_warm
from sevfork.lifecycle.warm.retry import Retry

# A child that is launched takes a processor for seconds; one at a time leaves forks their share.
_STEP_TIMEOUT_S = 300.0
_POLL_S = 0.5


@dataclass(frozen=True)
class PoolRequest:
    """``every_s``: how often the snapshot and the warm children are brought up to date."""

    parent: str
    size: int
    every_s: float
    max_lag_s: float
    token: bytes | None = field(default=None, repr=False)


@dataclass
class Pool:
    """Keeps the children warm. ``note`` hears of what a person would want to know."""

    hypervisor: Hypervisor
    request: PoolRequest
    note: Callable[[str], None]
    on_full: Callable[[], None]
    gather: Gather = as_it_is
    _was_full: bool = False
    _steps: Retry = field(init=False)
    _launches: Retry = field(init=False)
    _due: Deadline = field(default_factory=lambda: Deadline.after(0))

    def __post_init__(self) -> None:
        self._steps, self._launches = Retry(self.note), Retry(self.note)

    def keep(self, wait: Callable[[float], None]) -> None:
        """Until the parent has ended, or ``wait`` raises; then the warm children are removed."""
        try:
            while self._parent_lives():
                wait(self._look())
            self.note(f"'{self.request.parent}' has ended, and its pool with it")
        finally:
            self._remove_all()

    def _look(self) -> float:
        """One look, which may fail; without libvirt there is no next one."""
        try:
            pause_s = self._step()
        except HypervisorUnreachable:
            raise
        except SevforkError as exc:
            return self._steps.failed(exc)
        self._steps.worked()
        return pause_s

    def _step(self) -> float:
        """Do what is due, and say how many seconds may pass until the next look."""
        spec = running_vm(self.hypervisor, self.request.parent, "have warm children")[1]
        if self._due.passed:
            self._update(spec)
            self._due = Deadline.after(self.request.every_s)
        return min(_POLL_S, max(0.0, self._due.left_s)) if self._fill_one(spec) else 0.0

    def _update(self, spec: GuestSpec) -> None:
        """Bring the snapshot up to date, and every warm child."""
        job = self._job()
        with parent_of(job, spec) as parent:
            parent.require_ready()
            snapshot = update_of(parent, spec)
        for note in snapshot.notes:
            self.note(note)
        if snapshot.made.begun_anew:
            self.note(f"the snapshot was begun anew: {snapshot.made.begun_anew}")
        for child in self._mine(spec):
            self._refresh(spec, snapshot.plugged, child)

    def _refresh(self, parent: GuestSpec, snapshot: PluggedSnapshot, child: WarmVm) -> None:
        """One that cannot be brought up to date is removed, and replaced in time."""
        job = self._job()
        try:
            if child.warmth.serial != snapshot.serial:
                raise WrongState("its snapshot's volume was full, and another one was begun")
            refresh(job, parent, child, self._freshness)
        except SevforkError as exc:
            if self._still_warm(child):
                self.note(f"replacing '{child.domain.name}': {exc.message}")
                remove_warm(job, parent, child)

    def _fill_one(self, spec: GuestSpec) -> bool:
        """Launch one more if there are too few; whether there is nothing to launch now.

        What keeps one from being launched keeps no other from being brought up to date.
        """
        warm = self._mine(spec)
        for child in warm:
            if child.is_stale:
                self.note(f"replacing '{child.domain.name}': it has gone stale")
                remove_warm(self._job(), spec, child)
        if len(warm) < self.request.size:
            self._was_full = False
            return self._launches.is_waiting or not self._launch(spec)
        if not self._was_full:
            self._was_full = True
            self.on_full()
        return True

    def _launch(self, spec: GuestSpec) -> bool:
        """Whether it is warm; what failed is tried again later."""
        try:
            name = self._make_one(spec)
        except HypervisorUnreachable:
            raise
        except SevforkError as exc:
            self._launches.failed(exc)
            return False
        self._launches.worked()
        self.note(f"'{name}' is warm")
        return True

    def _make_one(self, spec: GuestSpec) -> str:
        snapshot = plugged_snapshot(self.hypervisor, spec.uuid)
        if snapshot is None:
            raise WrongState(f"'{spec.name}' has lost its snapshot's volume")
        plan = plan_fork(
            self.hypervisor, ForkRequest(spec.uuid, cold=True, token=self.request.token)
        )
        return make_warm(self._job(), plan, snapshot, self._freshness)

    def _remove_all(self) -> None:
        """A parent that lives forgets their places in time, as it does when a pool is killed."""
        for child in filter(None, map(as_warm, self.hypervisor.domains())):
            if child.metadata.maker == maker.this_process():
                with contextlib.suppress(WrongState):
                    remove_domain(self.hypervisor, child.domain)

    def _mine(self, parent: GuestSpec) -> list[WarmVm]:
        me = maker.this_process()
        found = warm_children(self.hypervisor, parent.uuid)
        return [child for child in found if child.metadata.maker == me]

    def _still_warm(self, child: WarmVm) -> bool:
        try:
            return as_warm(self.hypervisor.find(child.domain.uuid)) is not None
        except WrongState:
            return False

    def _parent_lives(self) -> bool:
        """Be it paused: it is waited for then."""
        try:
            return self.hypervisor.find(self.request.parent).state.active
        except WrongState:
            return False

    @property
    def _freshness(self) -> Freshness:
        return Freshness(self.request.max_lag_s)

    def _job(self) -> Job:
        watch = logged(unwatched)
        return Job(self.hypervisor, Deadline.after(_STEP_TIMEOUT_S), watch, gather=self.gather)
