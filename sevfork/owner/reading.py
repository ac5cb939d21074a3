"""What a VM's workload prints, for its owner alone: the host relays what it cannot read."""

from __future__ import annotations

from dataclasses import dataclass

from sevfork.errors import NotAuthentic
from sevfork.handshake import Signer
from sevfork.handshake.owner_session import Asked
from sevfork.host.agent_client import AgentClient
from sevfork.lifecycle.job import Job
from sevfork.wire import protocol


@dataclass(frozen=True)
class OwnersReading:
    """Asks the instance with this key, which the owner has attested, in the owner's name."""

    owner: Signer
    instance_key: bytes

    def __call__(self, agent: AgentClient, request: protocol.ReadLogs, job: Job) -> protocol.Logs:
        """Raises RefusedByGuest, and NotAuthentic for what is no answer to this very question."""
        asked = Asked(self.owner, self.instance_key, protocol.encode(request))
        told = agent.ask(
            protocol.OwnerAsks(asked.question), protocol.OwnerTold, deadline=job.deadline
        )
        reply = protocol.decode_reply(asked.open(told.answer))
        if not isinstance(reply, protocol.Logs):
            raise NotAuthentic("owner answer: another kind of reply")
        return reply
