"""The last word of children that are removed: their parents hear so, and do not miss them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from sevfork.domain import metadata_xml
from sevfork.domain.metadata import Phase
from sevfork.domain.spec import GuestSpec
from sevfork.domain.xml import spec_from_xml
from sevfork.errors import SevforkError, WrongState
from sevfork.host.hypervisor import Domain, DomainState, Hypervisor
from sevfork.lifecycle.agents import agent_on
from sevfork.lifecycle.find import running_vm
from sevfork.lifecycle.job import Job
from sevfork.lifecycle.relay import Place, Relay, place_of
from sevfork.wire import protocol

log = logging.getLogger(__name__)

# A guest that does not answer is removed all the same, and its parent told later that it is lost.
_LAST_WORD_S = 3.0


def take_leave(job: Job, leaving: Sequence[Domain], note: Callable[[str], None]) -> None:
    """Switch off the children among them whose parents stay, and tell those. Never raises for it.

    ``note`` hears of a parent that could not be told.
    """
    gone = {domain.uuid for domain in leaving}
    families: dict[str, list[Domain]] = {}
    for domain in leaving:
        parent = _parent(domain)
        if parent is not None and parent not in gone:
            families.setdefault(parent, []).append(domain)
    for parent, children in families.items():
        spec = _running(job.hypervisor, parent)
        if spec is None:
            continue
        lives = dict(_last_words(job, children))
        try:
            silent = {place_of(domain) for domain in children} - lives.keys()
            Relay(job, spec, math.inf, note).deliver(lives, silent)
        except SevforkError as exc:
            note(f"'{spec.name}' was not told that its children end: {exc.message}")


def _parent(domain: Domain) -> str | None:
    """Of a child that runs a workload; None for every other VM."""
    if domain.state is not DomainState.RUNNING:
        return None
    with suppress(WrongState):  # it can be removed, whatever stands in its metadata
        metadata = metadata_xml.read(domain.metadata_xml or "")
        return metadata.parent if metadata.phase is Phase.READY else None
    return None


def _running(hypervisor: Hypervisor, uuid: str) -> GuestSpec | None:
    """The parent, if it runs: else there is nobody to be told."""
    with suppress(WrongState):
        return running_vm(hypervisor, uuid, "be told")[1]
    return None


def _last_words(job: Job, children: Sequence[Domain]) -> Iterator[tuple[Place, protocol.Life]]:
    for domain in children:
        try:
            yield place_of(domain), shut_down(job, domain)
        except SevforkError as exc:
            log.debug("'%s' has no last word: %s", domain.name, exc.message)


def shut_down(job: Job, domain: Domain) -> protocol.Life:
    """Its last word; it goes on to switch itself off."""
    spec = spec_from_xml(job.hypervisor.xml(domain.uuid))
    deadline = job.deadline.within(_LAST_WORD_S)
    with agent_on(job, spec, job.hypervisor.open_channel(domain.uuid)) as agent:
        return agent.ask(protocol.ShutDown(), protocol.Life, deadline=deadline)
