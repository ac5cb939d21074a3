"""Jobs for tests: a use case on a hypervisor, with time enough unless a test says otherwise."""

from __future__ import annotations

from sevfork.deadline import Deadline
from sevfork.host.hypervisor import Hypervisor
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.progress import Watcher, unwatched


def job_on(hypervisor: Hypervisor, *, seconds: float = 60, watch: Watcher = unwatched) -> Job:
    return Job(hypervisor, Deadline.after(seconds), watch)
