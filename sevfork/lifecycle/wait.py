"""``sevfork wait``: until workloads have ended, and how they have, as waitpid(2) tells it."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from sevfork.deadline import Deadline
from sevfork.domain import metadata_xml
from sevfork.domain.metadata import Phase
from sevfork.domain.spec import GuestSpec
from sevfork.domain.xml import spec_from_xml
from sevfork.errors import Lost, RefusedByGuest, SevforkError, TimedOut, WrongState
from sevfork.host.hypervisor import Hypervisor
from sevfork.lifecycle.find import running_vm
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.listen import Ear
from sevfork.lifecycle.relay import Relay
from sevfork.wire.protocol import Life, LifeEvent, WorkloadPhase

# Each look opens the VM's channel, and keeps other commands from its agent for as long.
_POLL_S = 1.0
_SIGNALLED = 128
_TELL_S = 15.0


@dataclass(frozen=True)
class Ending:
    """How a VM's workload ended: less than 0 for a signal; or ``error``, why it is not known."""

    name: str
    uuid: str
    returncode: int = 0
    error: SevforkError | None = None

    @property
    def exit_code(self) -> int:
        """As a shell has it: the exit status, or 128 and the signal; sevfork's own for an error."""
        if self.error:
            return self.error.exit_code
        return self.returncode if self.returncode >= 0 else _SIGNALLED - self.returncode

    def __str__(self) -> str:
        return self.error.message if self.error else described(self.returncode)


def described(returncode: int) -> str:
    """An exit status, or a signal by its name where it has one."""
    if returncode >= 0:
        return f"exited with {returncode}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-returncode).name}"
    return f"was ended by signal {-returncode}"


def wait_for(
    job: Job,
    references: Sequence[str],
    *,
    any_of_them: bool,
    lost_after_s: float,
    note: Callable[[str], None],
) -> tuple[Ending, ...]:
    """How the workloads ended, in the order given: all, or with ``any_of_them`` one at least.

    Their parents are told, as far as they run. Raises TimedOut, and WrongState for what was not
    made by sevfork or is no VM yet.
    """
    specs = {spec.uuid: spec for spec in (_spec(job.hypervisor, each) for each in references)}
    ears = {uuid: Ear(spec, lost_after_s) for uuid, spec in specs.items()}
    ended: dict[str, Ending] = {}
    try:
        for _ in job.poll(_POLL_S, "the time is over"):
            ended |= {each.uuid: each for each in _look(job, ears, ended)}
            if len(ended) == len(ears) or (ended and any_of_them):
                break
    except TimedOut as exc:
        runs = ", ".join(f"'{spec.name}'" for uuid, spec in specs.items() if uuid not in ended)
        raise TimedOut(f"still runs: {runs}") from exc
    _tell_parents(job, [specs[uuid] for uuid in ended], note)
    return tuple(ended[uuid] for uuid in specs if uuid in ended)


def _tell_parents(job: Job, children: Sequence[GuestSpec], note: Callable[[str], None]) -> None:
    """Each parent that runs hears of these; ``note`` of what cannot be told. Nobody waits long."""
    hasty = replace(job, deadline=Deadline.after(_TELL_S))
    for parent in {spec.metadata.parent for spec in children if spec.metadata.parent}:
        only = frozenset(spec.uuid for spec in children if spec.metadata.parent == parent)
        try:
            _, spec = running_vm(job.hypervisor, parent, "be told")
        except WrongState:
            continue  # it has ended: there is nobody to be told
        try:
            Relay(hasty, spec, math.inf, note, only).round()
        except SevforkError as exc:
            note(f"'{spec.name}' was not told of its children: {exc.message}")


def _look(job: Job, ears: dict[str, Ear], ended: dict[str, Ending]) -> Iterator[Ending]:
    """Those that have ended since."""
    for uuid, ear in ears.items():
        ending = None if uuid in ended else _ending(job, ear)
        if ending:
            yield ending


def _ending(job: Job, ear: Ear) -> Ending | None:
    spec = ear.spec
    try:
        life = ear.hear(job)
        returncode = _returncode(spec.name, life) if life else None
    except (Lost, RefusedByGuest) as exc:
        return Ending(spec.name, spec.uuid, error=exc)
    return None if returncode is None else Ending(spec.name, spec.uuid, returncode)


def _returncode(name: str, life: Life) -> int | None:
    """None while the workload runs. Raises Lost where nobody knows, RefusedByGuest."""
    if life.phase is WorkloadPhase.FAILED:
        raise RefusedByGuest(f"the workload of '{name}' did not start")
    if life.phase is WorkloadPhase.UNCONFIGURED:
        raise Lost(f"how the workload of '{name}' ends is not known: its agent was started again")
    exited = [each for each in life.events if each.event is LifeEvent.EXITED]
    if exited and exited[0].returncode is None:
        raise Lost(f"the workload of '{name}' has ended, and its agent does not know how")
    return exited[0].returncode if exited else None


def _spec(hypervisor: Hypervisor, reference: str) -> GuestSpec:
    """Of a VM that is made, whether or not it runs yet, or still."""
    domain = hypervisor.find(reference)
    if domain.metadata_xml is None:
        raise WrongState(f"'{domain.name}' has no sevfork agent: it was not made by sevfork")
    phase = metadata_xml.read(domain.metadata_xml).phase
    if phase is not Phase.READY:
        raise WrongState(f"'{domain.name}' runs no workload of its own yet: it is {phase.value}")
    return spec_from_xml(hypervisor.xml(domain.uuid))
