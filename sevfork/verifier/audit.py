"""``sevfork log``: a VM's audit record, read with a nonce of ours, and whose it is."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass

from sevfork.domain.spec import GuestSpec
from sevfork.errors import NotAuthentic
from sevfork.handshake.audit import AUDIT_NONCE_SIZE, Record, verified
from sevfork.handshake.audit_entries import ChainKind, PlaceTaken, lineage_digest
from sevfork.lifecycle.agents import greet_agent
from sevfork.lifecycle.job import Job
from sevfork.verifier.statement import Statement
from sevfork.wire import protocol


@dataclass(frozen=True)
class Reading:
    """A record that is whole, and the bytes that it was read from."""

    vm: str
    audited: protocol.Audited
    record: Record

    def require_signed_by(self, statement: Statement) -> None:
        """Raise NotAuthentic unless the instance that speaks in this statement has signed it."""
        if not hmac.compare_digest(statement.status.instance_key, self.record.head.instance_key):
            raise NotAuthentic("audit: the record is signed by another instance than this VM")

    def require_place(self, encoded_lineage: bytes) -> None:
        """Raise NotAuthentic unless the last place in it is that of the VM with this lineage."""
        places = [entry.deed for entry in self.record.of(ChainKind.PLACE)]
        last = places[-1] if places else None
        digest = last.lineage_digest if isinstance(last, PlaceTaken) else b""
        if not hmac.compare_digest(digest, lineage_digest(encoded_lineage)):
            raise NotAuthentic("audit: the record's place is not that of the VM's lineage")


def read_audit(job: Job, spec: GuestSpec) -> Reading:
    """Ask the VM, and check that nothing is missing, moved, changed or old.

    Raises WrongState, TimedOut, NotAuthentic.
    """
    nonce = secrets.token_bytes(AUDIT_NONCE_SIZE)
    with greet_agent(job, spec) as agent:
        audited = agent.ask(protocol.ReadAudit(nonce), protocol.Audited, deadline=job.deadline)
    return Reading(spec.name, audited, verified(audited.head, audited.entries, nonce))
