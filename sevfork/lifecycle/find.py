"""Which running VM is meant: what `fork` and `attest` begin with."""

from __future__ import annotations

from sevfork.domain.spec import GuestSpec
from sevfork.domain.xml import spec_from_xml
from sevfork.errors import WrongState
from sevfork.host.hypervisor import Domain, DomainState, Hypervisor

_REMEDIES = {
    DomainState.PAUSED: "virsh --connect '{uri}' resume '{name}'",
    DomainState.SUSPENDED: "virsh --connect '{uri}' dompmwakeup '{name}'",
}
_ENDED = "its memory is gone: remove it with sevfork rm '{name}', start another with 'sevfork up'"


def running_vm(hypervisor: Hypervisor, reference: str, purpose: str) -> tuple[Domain, GuestSpec]:
    """A running VM of sevfork's, by name, id or UUID; only such a one can do what ``purpose`` says.

    Raises WrongState for one that is not there, is not sevfork's, or does not run.
    """
    domain = hypervisor.find(reference)
    if domain.metadata_xml is None:
        raise WrongState(
            f"'{domain.name}' has no sevfork agent: it was not made by sevfork",
            hint="start a fork-ready VM with 'sevfork up'",
        )
    if domain.state is not DomainState.RUNNING:
        raise cannot(hypervisor, domain, f"only a running VM can {purpose}")
    return domain, spec_from_xml(hypervisor.xml(domain.uuid))


def cannot(hypervisor: Hypervisor, domain: Domain, why: str) -> WrongState:
    """The error for a VM whose agent cannot answer in its state, with the command that helps."""
    remedy = _REMEDIES.get(domain.state, _ENDED)
    return WrongState(
        f"'{domain.name}' is {domain.state.value}: {why}",
        hint=remedy.format(uri=hypervisor.uri, name=domain.name),
    )
