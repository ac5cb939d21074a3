"""The whole fork: one capture, its children a few at a time, and what came of each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial

from sevfork.domain.spec import Accelerator, GuestSpec
from sevfork.errors import SevforkError
from sevfork.host.hypervisor import HostFacts
from sevfork.lifecycle.fork.capture import Capture, OpenFork, captured, opened
from sevfork.lifecycle.fork.child import ForkedChild, make_child
from sevfork.lifecycle.fork.plan import ForkPlan
from sevfork.lifecycle.fork.warm import TakenChild, activate_child, take_warm
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.undo import Undo
from sevfork.technology import Technology

log = logging.getLogger(__name__)

# A wait without an end could not be interrupted by a signal on every platform.
_WAIT_S = 0.5


@dataclass(frozen=True)
class ForkOutcome:
    """``pause_ms`` is how long the parent's workload stood still; times count from the start."""

    parent: str
    parent_uuid: str
    technology: Technology
    accelerator: Accelerator
    fork_id: str
    pause_ms: float
    capture_s: float
    state_bytes: int
    sealed_bytes: int
    children: tuple[ForkedChild, ...]


def run_fork(job: Job, plan: ForkPlan) -> ForkOutcome:
    """The whole fork: the outcome has a result for each child.

    Raises if no child came to be, or if one did not where all were wanted.
    """
    # Children outlive the capture, but not a failure, or a signal, while that is cleaned up.
    with Undo() as undo:
        taken = take_warm(job, plan, undo)
        plan = replace(plan, names=plan.names[: plan.request.count - len(taken)])
        with opened(job, plan) as fork:
            capture, children = _capture_and_make(job, fork, taken, undo)
        failures = [child.error for child in children if child.error]
        if failures and (plan.request.all_or_nothing or len(failures) == len(children)):
            raise failures[0]
    return ForkOutcome(
        parent=plan.domain.name,
        parent_uuid=plan.domain.uuid,
        technology=plan.spec.metadata.technology,
        accelerator=plan.spec.accelerator,
        fork_id=fork.fork_id.hex(),
        pause_ms=capture.pause_ms,
        capture_s=capture.ready_s,
        state_bytes=capture.state_bytes,
        sealed_bytes=capture.sealed_bytes,
        children=children,
    )


def _capture_and_make(
    job: Job, fork: OpenFork, taken: tuple[TakenChild, ...], undo: Undo
) -> tuple[Capture, tuple[ForkedChild, ...]]:
    """Children boot while the parent captures, but for one processor's, which is left to that."""
    facts = job.hypervisor.facts()
    ahead = facts.cpus - 1
    warm = [
        partial(_attempt, each.spec.name, partial(activate_child, job, fork, each, undo))
        for each in taken
    ]
    cold = [
        partial(_attempt, name, partial(_make, job, fork, index, undo, ahead=index < ahead))
        for index, name in enumerate(fork.names)
    ]
    with ThreadPoolExecutor(max_workers=_at_once(facts, fork.plan.spec)) as pool:
        futures = [pool.submit(attempt) for attempt in warm + cold]
        try:
            with captured(job, fork) as capture:
                return capture, results(futures)
        except BaseException:
            job.cancelled.set()
            for future in futures:
                future.cancel()
            raise


def _at_once(facts: HostFacts, spec: GuestSpec) -> int:
    """How many children are made at a time: as many as the host has processors and memory for.

    A guest that boots keeps a processor busy where it is emulated, and about half of one by KVM;
    two have always something to wait for.
    """
    busy = facts.cpus if spec.accelerator is Accelerator.TCG else 2 * facts.cpus
    return max(1, min(max(2, busy), facts.free_memory_mib // spec.memory_mib))


def _make(job: Job, fork: OpenFork, index: int, undo: Undo, *, ahead: bool) -> ForkedChild:
    """``ahead``: launched before the capture is there, unless a VM is to be removed for it."""
    takes_a_place = fork.names[index] in {domain.name for domain in fork.plan.replaced}
    if takes_a_place or not ahead:
        fork.capture(job)
    return make_child(job, fork, index, undo)


def results(futures: Iterable[Future[ForkedChild]]) -> tuple[ForkedChild, ...]:
    """All results, in order; the first exception at once."""
    in_order = tuple(futures)
    pending = set(in_order)
    while pending:
        done, pending = wait(pending, timeout=_WAIT_S, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
    return tuple(future.result() for future in in_order)


def _attempt(name: str, make: Callable[[], ForkedChild]) -> ForkedChild:
    """The child, or what came of it."""
    try:
        return make()
    except SevforkError as exc:
        error = exc
    except Exception as exc:
        # One child's trouble is that child's: its siblings live, and it is told as what it is.
        error = SevforkError(f"unexpected: {type(exc).__name__}: {exc}")
        error.__cause__ = exc
    log.debug("child '%s' failed", name, exc_info=error)
    return ForkedChild(name, "", error=error)
