"""Authorisation: an owner allows so many children of a VM that is theirs.

Whether it is theirs is what its lineage says: it descends from a root whose image the owner has
checked, and vouched for, by adopting it. Its evidence says that it is that VM, now.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sevfork.attest.policy import Policy
from sevfork.errors import AttestationFailed
from sevfork.handshake import Allowance, OwnerToken, Signer, owner_digest
from sevfork.image.files import write_whole
from sevfork.owner.descent import Descent, checked
from sevfork.owner.documents import SavedLineage


@dataclass(frozen=True)
class Authorised:
    """A token, and what it rests on."""

    vm: str
    token: OwnerToken
    descent: Descent

    def write(self, path: Path) -> None:
        """Raises UsageError where the file cannot be written."""
        write_whole(path, self.token.encode())


def authorise(
    saved: SavedLineage,
    owner: Signer,
    policy: Policy,
    at: datetime,
    allowed: Allowance,
    *,
    allow_simulated: bool = False,
) -> Authorised:
    """Check everything that the VM has said, and sign a token for it, with a new serial.

    Raises NotAuthentic for a VM that does not descend from a root that this owner has adopted,
    EvidenceRejected, AttestationFailed, InsecureRefused.
    """
    if not saved.statements:
        raise AttestationFailed("the lineage has no evidence of the VM itself")
    mine = owner_digest(owner.public)
    descent = checked(saved, mine, policy, at, allow_simulated=allow_simulated)
    claims = saved.statements[0].statement.status
    token = OwnerToken.issue(
        owner,
        instance_key=claims.instance_key,
        policy_digest=claims.policy_digest,
        serial=secrets.randbits(64),
        allowed=allowed,
    )
    return Authorised(saved.vm, token, descent)
