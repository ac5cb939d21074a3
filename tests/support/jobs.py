"""Jobs for tests: a use case on a hypervisor, with time enough unless a test says otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sevfork.deadline import Deadline
from sevfork.host.hypervisor import Hypervisor
from sevfork.lifecycle.fork.capture import Capture, OpenFork, captured, opened
from sevfork.lifecycle.fork.plan import ForkPlan
from sevfork.lifecycle.gathered import Gather, as_it_is
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.progress import Watcher, unwatched


def job_on(
    hypervisor: Hypervisor,
    *,
    seconds: float = 60,
    watch: Watcher = unwatched,
    gather: Gather = as_it_is,
) -> Job:
    return Job(hypervisor, Deadline.after(seconds), watch, gather=gather)


@contextmanager
def captured_fork(job: Job, plan: ForkPlan) -> Iterator[tuple[OpenFork, Capture]]:
    """A fork that has captured, and has no child yet."""
    with opened(job, plan) as fork, captured(job, fork) as capture:
        yield fork, capture
