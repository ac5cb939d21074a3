"""Handing a guest what evidence is checked by, before evidence of it is made or checked.

The host believes as little of it as the guest does. What is not to be had is no error here: whether
the evidence is good enough without, the guest's policy says.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator

from sevfork.attest.evidence import Evidence
from sevfork.domain.spec import GuestSpec
from sevfork.errors import AttestationFailed
from sevfork.handshake.launch import LaunchConfig
from sevfork.host.agent_client import AgentClient
from sevfork.lifecycle.gathered import Gathered
from sevfork.lifecycle.job import Job
from sevfork.wire import protocol

_NONCE_SIZE = 32


def endorse(job: Job, spec: GuestSpec, agent: AgentClient) -> Gathered | None:
    """What was gathered for a report of this very VM, and handed to it; None where none is needed.

    Raises AttestationFailed for a report that cannot be read.
    """
    if not spec.metadata.technology.confidential:
        return None
    job.watch(spec.name, "certificates")
    nonce = protocol.Attest(secrets.token_bytes(_NONCE_SIZE))
    attested = agent.ask(nonce, protocol.Attested, deadline=job.deadline)
    gathered = job.gather(Evidence.decode(attested.evidence))
    if gathered.evidence.certificates:
        handed = protocol.Endorse(gathered.evidence.certificates)
        agent.ask(handed, protocol.Done, deadline=job.deadline)
    return gathered


def configure(job: Job, spec: GuestSpec, agent: AgentClient, config: LaunchConfig) -> None:
    """Tell a VM what it was launched as, which it checks by evidence of its own."""
    with _telling_what_was_missing(endorse(job, spec, agent)):
        step_ns = agent.clock_step_ns(job.deadline)
        request = protocol.Configure(config.encode(), step_ns)
        agent.ask(request, protocol.Status, deadline=job.deadline)


@contextlib.contextmanager
def _telling_what_was_missing(gathered: Gathered | None) -> Iterator[None]:
    """The VM is gone after this, and so the command is one for the evidence that was kept."""
    try:
        yield
    except AttestationFailed as exc:
        if gathered is None or not gathered.missing:
            raise
        why, kept_at = gathered.missing[0].message, gathered.kept_at
        raise AttestationFailed(
            exc.message, hint=f"{why}; 'sevfork certs fetch {kept_at}' gets what is missing"
        ) from exc
