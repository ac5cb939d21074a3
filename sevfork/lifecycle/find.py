"""Which running VM is meant: what `fork` and `attest` begin with."""

from __future__ import annotations

from sevfork.domain.spec import GuestSpec
from sevfork.domain.xml import spec_from_xml
from sevfork.errors import WrongState
from sevfork.host.hypervisor import Domain, Hypervisor


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
    if not domain.state.active:
        raise WrongState(
            f"'{domain.name}' is {domain.state.value}: only a running VM can {purpose}"
        )
    return domain, spec_from_xml(hypervisor.xml(domain.uuid))
