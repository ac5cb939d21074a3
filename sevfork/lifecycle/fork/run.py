"""The whole fork: one capture, its children a few at a time, and what came of each."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

from sevfork.domain.spec import Accelerator
from sevfork.errors import SevforkError
from sevfork.lifecycle.fork.capture import OpenCapture, captured
from sevfork.lifecycle.fork.child import ForkedChild, make_child
from sevfork.lifecycle.fork.plan import ForkPlan
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.progress import logged
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
    """The whole fork. Raises if no child came to be; else the outcome has a result for each."""
    job = replace(job, watch=logged(job.watch))
    # Children outlive the capture, but not a failure, or a signal, while that is cleaned up.
    with Undo() as undo, captured(job, plan) as capture:
        children = _make_children(job, capture, undo)
    if all(child.error for child in children) and children[0].error:
        raise children[0].error
    return ForkOutcome(
        parent=plan.domain.name,
        parent_uuid=plan.domain.uuid,
        technology=plan.spec.metadata.technology,
        accelerator=plan.spec.accelerator,
        fork_id=capture.fork_id.hex(),
        pause_ms=capture.pause_ms,
        capture_s=capture.ready_s,
        state_bytes=capture.state_bytes,
        sealed_bytes=capture.sealed_bytes,
        children=children,
    )


def _make_children(job: Job, capture: OpenCapture, undo: Undo) -> tuple[ForkedChild, ...]:
    """A few at a time, so that a wide fork does not bring the host down."""
    count, cpus = len(capture.names), job.hypervisor.facts().cpus
    with ThreadPoolExecutor(max_workers=min(count, max(2, cpus))) as pool:
        futures = [pool.submit(_attempt, job, capture, index, undo) for index in range(count)]
        try:
            return results(futures)
        except BaseException:
            job.cancelled.set()
            for future in futures:
                future.cancel()
            raise


def results(futures: Iterable[Future[ForkedChild]]) -> tuple[ForkedChild, ...]:
    """All results, in order; the first exception at once."""
    in_order = tuple(futures)
    pending = set(in_order)
    while pending:
        done, pending = wait(pending, timeout=_WAIT_S, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
    return tuple(future.result() for future in in_order)


def _attempt(job: Job, capture: OpenCapture, index: int, undo: Undo) -> ForkedChild:
    name = capture.names[index]
    try:
        return make_child(job, capture, index, undo)
    except SevforkError as exc:
        error = exc
    except Exception as exc:
        # One child's trouble is that child's: its siblings live, and it is told as what it is.
        error = SevforkError(f"unexpected: {type(exc).__name__}: {exc}")
        error.__cause__ = exc
    log.debug("child '%s' failed", name, exc_info=error)
    return ForkedChild(name, "", error=error)
