"""Adoption: an owner says that the VM with this instance key is the root of their family.

What the owner signs for is the launch. So the evidence is checked in full, under a policy that says
which launch it has to be, and the launch configuration that it signs must be that of this owner's
root: a child, or another tenant's VM, is none.
"""

from __future__ import annotations

from datetime import datetime

from sevfork.attest.policy import Policy
from sevfork.attest.verdict import Verdict
from sevfork.errors import AttestationFailed, InsecureRefused
from sevfork.handshake.launch import LaunchConfig, Role
from sevfork.technology import Technology
from sevfork.verifier.render import rejection
from sevfork.verifier.statement import Statement
from sevfork.wire import protocol


def checked(
    statement: Statement,
    policy: Policy,
    at: datetime,
    owner: bytes,
    *,
    allow_simulated: bool = False,
) -> Verdict:
    """The verdict on a root that the owner with this digest may adopt: every check has passed.

    Raises EvidenceRejected; AttestationFailed for a VM that is no root of this owner;
    InsecureRefused for a policy that takes any launch, and as ``judged`` does.
    """
    _require_root(statement.status, owner)
    verdict = statement.judged(policy, at, allow_simulated=allow_simulated)
    if not verdict.passed:
        raise rejection(verdict)
    _require_launch(policy, verdict.technology)
    return verdict


def _require_root(claims: protocol.Status, owner: bytes) -> None:
    """Raise AttestationFailed for a VM that was launched as anything but this owner's root."""
    if not claims.launch_config:
        raise AttestationFailed("the VM does not know yet what it was launched as")
    config = LaunchConfig.decode(claims.launch_config)
    if config.role is not Role.ROOT:
        raise AttestationFailed("the VM is a child: it has its lineage from its parent")
    if config.owner is None:
        raise AttestationFailed(
            "the VM was launched without an owner", hint="start it with 'sevfork up --owner PUB'"
        )
    if config.owner != owner:
        raise AttestationFailed("the VM was launched for another owner")


def _require_launch(policy: Policy, technology: Technology) -> None:
    """Raise InsecureRefused for a policy that takes any launch: an agent can claim anything."""
    if technology is Technology.TDX:
        rules = [getattr(policy.tdx, name) for name in ("mrtd", "rtmr1", "rtmr2")]
    else:
        rules = [policy.snp.measurements if policy.snp else "any"]
    if "any" in rules:
        raise InsecureRefused(
            "the policy takes a VM of any image, and to adopt one is to vouch for its image",
            hint="name the image with --image DIR, or its measurements in the policy",
        )
