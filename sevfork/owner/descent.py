"""A descent, checked offline: from the owner, over the root and each fork, to one VM.

The signatures say who descends from whom, and need nothing but the owner's public key. The evidence
of a VM says what it is; of one that is gone there is none, and its child's word stands for it: that
child has verified it, and was itself verified, when they met.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sevfork.attest.policy import Policy
from sevfork.attest.verdict import Verdict
from sevfork.errors import NotAuthentic
from sevfork.handshake import ForkCertificate, Lineage
from sevfork.handshake.launch import LaunchConfig, Role
from sevfork.owner.documents import SavedLineage
from sevfork.verifier.render import rejection
from sevfork.verifier.statement import Statement

if TYPE_CHECKING:
    from sevfork.verifier.attest import Attestation


@dataclass(frozen=True)
class Member:
    """One VM of a descent; ``certificate`` is its parent's word, and None for the root.

    ``vm`` is what the operator calls it, and ``verdict`` what its evidence is worth: None for both
    where it was not asked.
    """

    instance_key: bytes
    generation: int
    certificate: ForkCertificate | None
    vm: str | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Descent:
    """All checks have passed: from the root to the VM whose lineage it is."""

    owner_key: bytes
    members: tuple[Member, ...]


def verified(encoded: bytes, owner: bytes) -> Lineage:
    """A lineage whose every signature is valid, of the owner with this digest; NotAuthentic."""
    lineage = Lineage.decode(encoded)
    if lineage.owner_certificate is None:
        raise NotAuthentic(
            "lineage: no owner has adopted the root", hint="its owner does by 'sevfork owner adopt'"
        )
    lineage.verify(owner)
    return lineage


def place_of(statement: Statement, lineage: Lineage, owner: bytes) -> int:
    """Which VM of the descent speaks: 0 for the root. Its evidence is judged by itself.

    Raises NotAuthentic for one that is not in it, or was launched as another than it is there.
    """
    claims = statement.status
    if claims.instance_key not in lineage.keys:
        raise NotAuthentic("lineage: the VM that speaks is none of this descent")
    place = lineage.keys.index(claims.instance_key)
    config = LaunchConfig.decode(claims.launch_config)
    if config.owner != owner:
        raise NotAuthentic("lineage: the VM was launched for another owner")
    if (config.role is Role.ROOT) != (place == 0):
        raise NotAuthentic("lineage: a root must be launched as one, and a child as one")
    if claims.generation != _generations(lineage)[place]:
        raise NotAuthentic("lineage: the VM claims another generation")
    return place


def checked(
    saved: SavedLineage,
    owner: bytes,
    policy: Policy,
    at: datetime,
    *,
    allow_simulated: bool = False,
) -> Descent:
    """The descent in a file, every signature and all evidence that is there.

    Raises NotAuthentic, EvidenceRejected, AttestationFailed, InsecureRefused.
    """
    lineage = verified(saved.lineage, owner)
    said: dict[int, tuple[str, Verdict]] = {}
    for each in saved.statements:
        place = place_of(each.statement, lineage, owner)
        if not said and place != len(lineage.certificates):
            raise NotAuthentic("lineage: it is that of another VM")
        verdict = each.statement.judged(policy, at, allow_simulated=allow_simulated)
        if not verdict.passed:
            raise rejection(verdict)
        said[place] = (each.vm, verdict)
    return descent_of(lineage, said.items())


def of_attested(attested: Attestation, encoded: bytes, owner: bytes) -> Descent:
    """The same for a VM whose evidence was judged already. Raises NotAuthentic."""
    lineage = verified(encoded, owner)
    place = place_of(attested.statement, lineage, owner)
    if place != len(lineage.certificates):
        raise NotAuthentic("lineage: it is that of another VM")
    return descent_of(lineage, [(place, (attested.vm, attested.verdict))])


def descent_of(lineage: Lineage, said: Iterable[tuple[int, tuple[str, Verdict]]] = ()) -> Descent:
    """A verified lineage, and by place what was said by whom; raise NotAuthentic without owner."""
    if lineage.owner_certificate is None:
        raise NotAuthentic("lineage: the owner's certificate of the root is missing")
    told = dict(said)
    certificates = (None, *lineage.certificates)
    fields = zip(lineage.keys, _generations(lineage), certificates, strict=True)
    members = tuple(
        Member(*each, *told.get(place, (None, None))) for place, each in enumerate(fields)
    )
    return Descent(lineage.owner_certificate.owner_key, members)


def _generations(lineage: Lineage) -> tuple[int, ...]:
    return (0, *(link.generation for link in lineage.certificates))
