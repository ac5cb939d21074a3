"""How the workloads of many VMs are, for a list: each agent is asked for a moment, at once."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from sevfork.deadline import Deadline
from sevfork.domain.metadata import Phase
from sevfork.domain.xml import spec_from_xml
from sevfork.errors import SevforkError
from sevfork.host.hypervisor import DomainState, Hypervisor
from sevfork.lifecycle.inventory import Vm
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.listen import life_of
from sevfork.wire.protocol import LifeEvent

_ASK_S = 2.0
_AT_ONCE = 16


def with_endings(hypervisor: Hypervisor, listed: Iterable[Vm]) -> tuple[Vm, ...]:
    """The VMs, those that run with how their workload has ended, as far as they say so now."""
    listed = tuple(listed)
    job = Job(hypervisor, Deadline.after(_ASK_S))
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return tuple(threads.map(lambda vm: _asked(job, vm), listed))


def _asked(job: Job, vm: Vm) -> Vm:
    metadata = vm.metadata
    runs = vm.domain.state is DomainState.RUNNING
    if metadata is None or metadata.phase is not Phase.READY or not runs:
        return vm
    try:
        life = life_of(job, spec_from_xml(job.hypervisor.xml(vm.domain.uuid)))
    except SevforkError:
        return vm  # nothing is said of it: a list is no diagnosis, and 'sevfork wait' is
    exits = [each for each in life.events if each.event is LifeEvent.EXITED] if life else []
    if not exits:
        return vm
    return replace(vm, metadata=replace(metadata, ended=exits[0].returncode), has_ended=True)
