"""What an owner asks of a running VM, through a host that is only a relay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from sevfork.domain.spec import GuestSpec
from sevfork.domain.xml import spec_from_xml
from sevfork.errors import SevforkError
from sevfork.host.hypervisor import Hypervisor
from sevfork.lifecycle.agents import greet_agent
from sevfork.lifecycle.inventory import vms
from sevfork.lifecycle.job import Job
from sevfork.owner.documents import NamedStatement, SavedLineage
from sevfork.owner.nonce import new_nonce
from sevfork.verifier.attest import statement_of
from sevfork.wire import protocol

_ANCESTOR_S = 15.0


def hand_over(job: Job, spec: GuestSpec, certificate: bytes) -> None:
    """Give a root the certificate of its owner. Raises RefusedByGuest, NotAuthentic."""
    with greet_agent(job, spec) as agent:
        agent.ask(protocol.Adopt(certificate), protocol.Done, deadline=job.deadline)


def encoded_lineage(job: Job, spec: GuestSpec) -> bytes:
    with greet_agent(job, spec) as agent:
        told = agent.ask(protocol.GetLineage(), protocol.Descent, deadline=job.deadline)
    return told.lineage


def lineage_of(job: Job, spec: GuestSpec, note: Callable[[str], None]) -> SavedLineage:
    """Its lineage with fresh evidence, its own and that of each ancestor which answers.

    That of an ancestor proves nothing which its child's word does not: its silence is noted only.
    """
    statements = [NamedStatement(spec.name, statement_of(job, spec, new_nonce()))]
    for ancestor in running_ancestors(job.hypervisor, spec):
        brief = replace(job, deadline=job.deadline.within(_ANCESTOR_S))
        try:
            said = statement_of(brief, ancestor, new_nonce())
        except SevforkError as exc:
            note(f"no evidence of '{ancestor.name}': {exc.message}")
        else:
            statements.append(NamedStatement(ancestor.name, said))
    lineage = encoded_lineage(job, spec)
    return SavedLineage(vm=spec.name, lineage=lineage, statements=tuple(statements))


def running_ancestors(hypervisor: Hypervisor, spec: GuestSpec) -> Iterator[GuestSpec]:
    """By the host's word, which may lead in a circle: nearest first, each once."""
    known = {vm.domain.uuid: vm for vm in vms(hypervisor.domains())}
    parent = spec.metadata.parent
    while parent in known:
        vm = known.pop(parent)
        if vm.metadata is not None and vm.domain.state.active:
            yield spec_from_xml(hypervisor.xml(vm.domain.uuid))
        parent = vm.metadata.parent if vm.metadata else None
