"""A secure processor that signs, and guests launched on it: fakes that behave."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import asdict, replace

from sevfork.attest.verdict import Claims, Findings, LaunchIdentity, VerifiedReport, _verified
from sevfork.attest.verify import Expected
from sevfork.errors import AttestationFailed
from sevfork.handshake import (
    Action,
    ChildSession,
    Confirmed,
    ForkCertificate,
    InstanceKey,
    Layer,
    Lineage,
    Manifest,
    NeedEvidence,
    OwnerCertificate,
    OwnLaunch,
    ParentSession,
    ReleaseState,
    Send,
    Signer,
    Slot,
    on_chips,
)
from sevfork.handshake.launch import LaunchConfig, Role, launch_config_hash
from sevfork.technology import Technology

LIFETIME_S = 600.0
IMAGE_KEY_LIFETIME_S = 3600.0
WARM_LIFETIME_S = 86400.0
POLICY_DIGEST = hashlib.sha384(b"policy").digest()
FORK_ID = bytes(range(16))
MANIFEST = Manifest(
    (
        Layer(
            image_key=b"k" * 32, header_digest=b"h" * 48, chunk_count=3, image_id=b"i" * 16, start=0
        ),
    )
)


Kind = TypeVar("Kind")


def only(actions: Sequence[Action], kind: type[Kind]) -> Kind:
    """The one action that a session asked for, which must be of this kind."""
    (action,) = actions
    assert isinstance(action, kind), f"{action} is no {kind.__name__}"
    return action


def inside(session: ParentSession | ChildSession) -> Any:
    """What a session holds now: for tests of what it erases."""
    return session._state


def flip(data: bytes, position: int) -> bytes:
    """One bit of it changed."""
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


class Processor:
    """Signs a guest's launch and report data; verifies what it or another has signed."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.verified: list[Expected] = []

    def evidence(self, guest: Guest, report_data: bytes) -> bytes:
        body = json.dumps(
            {
                "technology": guest.technology.value,
                "report_data": report_data.hex(),
                "config_hash": launch_config_hash(guest.technology, guest.launch_config).hex(),
                "measurement": guest.measurement.hex(),
                "report_id": guest.report_id and guest.report_id.hex(),
                "chip_id": guest.chip_id.hex(),
            }
        ).encode()
        return self._key.sign(body) + body

    def verify(self, evidence: bytes, expected: Expected) -> VerifiedReport:
        """As ``attest.verify`` does: every mismatch fails, and so does everything unreadable."""
        self.verified.append(expected)
        findings = Findings()
        claims = self.claims(evidence, findings)
        findings.equal("report data", expected.report_data, claims.report_data)
        findings.equal("config", expected.launch_config_hash or b"", claims.launch_config_hash)
        same = expected.launch_identity == claims.launch_identity
        findings.check("launch identity", "the same", "it", same)
        if expected.other_than_report_id is not None:
            other = claims.report_id not in (None, expected.other_than_report_id)
            findings.check("report id", "another", "it", other)
        if expected.chip_id is not None:
            findings.equal("chip", expected.chip_id, claims.chip_id or b"")
        return _verified(claims, findings.verdict(claims.technology))

    def claims(self, evidence: bytes, findings: Findings) -> Claims:
        try:
            self._key.public_key().verify(evidence[:64], evidence[64:])
            said = json.loads(evidence[64:])
        except (InvalidSignature, ValueError) as exc:
            raise AttestationFailed("not signed by this processor") from exc
        findings.check("signature", "valid", "valid", True)
        technology = Technology(said["technology"])
        return Claims(
            technology=technology,
            report_data=bytes.fromhex(said["report_data"]),
            launch_config_hash=bytes.fromhex(said["config_hash"]),
            launch_identity=LaunchIdentity(
                technology, (("measurement", bytes.fromhex(said["measurement"])),)
            ),
            report_id=bytes.fromhex(said["report_id"]) if said["report_id"] else None,
            chip_id=bytes.fromhex(said["chip_id"]),
        )


@dataclass
class Guest:
    """A VM as the host has launched it."""

    processor: Processor
    config: LaunchConfig
    report_id: bytes | None
    technology: Technology = Technology.SIMULATED
    measurement: bytes = b"m" * 48
    chip_id: bytes = b"c" * 64
    policy_digest: bytes = POLICY_DIGEST
    same_chip: bool = True
    instance: InstanceKey = field(default_factory=InstanceKey)

    @property
    def launch_config(self) -> bytes:
        return self.config.encode()

    def evidence(self, report_data: bytes) -> bytes:
        return self.processor.evidence(self, report_data)

    def own(self) -> OwnLaunch:
        findings = Findings()
        claims = self.processor.claims(self.evidence(bytes(64)), findings)
        report = _verified(claims, findings.verdict(self.technology))
        return OwnLaunch.of(
            report, self.launch_config, self.policy_digest, same_chip=self.same_chip
        )


class Family:
    """A root, optionally with an owner, and the sessions of its forks."""

    def __init__(self, owner: Signer | None = None, **root: Any) -> None:
        self.processor = Processor()
        self.owner = owner
        self.owner_digest = None
        if owner is not None:
            self.owner_digest = hashlib.sha384(owner.public).digest()
        self._report_ids = 0
        self.root = self.launch(LaunchConfig(Role.ROOT, self.owner_digest), **root)

    def launch(self, config: LaunchConfig, **how: Any) -> Guest:
        self._report_ids += 1
        how.setdefault("report_id", self._report_ids.to_bytes(32, "big"))
        return Guest(self.processor, config, **how)

    @property
    def lineage(self) -> Lineage:
        key = self.root.instance.public
        return Lineage(key, OwnerCertificate.issue(self.owner, key) if self.owner else None)

    def parent(
        self,
        guest: Guest | None = None,
        lineage: Lineage | None = None,
        *,
        index: int = 0,
        lifetime_s: float = LIFETIME_S,
        image_key_lifetime_s: float = IMAGE_KEY_LIFETIME_S,
        warm: bool = False,
        manifest: Manifest | None = MANIFEST,
        chips: tuple[bytes, ...] = (),
    ) -> ParentSession:
        guest, lineage = guest or self.root, lineage or self.lineage
        slot = Slot(FORK_ID, index, lineage.generation + 1)
        return ParentSession(
            guest.own(),
            guest.instance,
            lineage,
            slot,
            manifest,
            on_chips(self.processor.verify, chips),
            now=0.0,
            lifetime_s=lifetime_s,
            image_key_lifetime_s=image_key_lifetime_s,
            warm=warm,
            warm_lifetime_s=WARM_LIFETIME_S,
        )

    def child_of(self, offer: bytes, **how: Any) -> Guest:
        digest = hashlib.sha384(offer).digest()
        return self.launch(LaunchConfig(Role.CHILD, self.owner_digest, digest), **how)

    def session(self, guest: Guest) -> ChildSession:
        return ChildSession(guest.own(), guest.instance, self.processor.verify)

    def fork(self, guest: Guest | None = None, lineage: Lineage | None = None, **how: Any) -> Fork:
        """A parent session, and a child that was launched for its OFFER."""
        parent = self.parent(guest, lineage)
        return Fork(self, guest or self.root, parent, self.child_of(parent.offer, **how))

    def uncaptured(self) -> Fork:
        """The same, before the parent has captured anything."""
        parent = self.parent(manifest=None)
        return Fork(self, self.root, parent, self.child_of(parent.offer))


class Fork:
    """One OFFER, one child, and each step between them, as an honest host relays it."""

    def __init__(self, family: Family, root: Guest, parent: ParentSession, guest: Guest) -> None:
        self.family, self.root, self.parent, self.guest = family, root, parent, guest
        self.child = family.session(guest)

    @property
    def offer(self) -> bytes:
        return self.parent.offer

    def join(self) -> bytes:
        (action,) = self.child.receive_offer(self.offer)
        if isinstance(action, NeedEvidence):
            evidence = self.guest.evidence(action.report_data)
            (action,) = self.child.provide_evidence(evidence)
        return only([action], Send).message

    def grant(self, join: bytes | None = None, now: float = 1.0) -> bytes:
        need = only(self.parent.receive_join(join or self.join(), now), NeedEvidence)
        evidence = self.root.evidence(need.report_data)
        return only(self.parent.provide_evidence(evidence, now), Send).message

    def release(self) -> ReleaseState:
        return only(self.child.receive_grant(self.grant()), ReleaseState)

    def confirm(self) -> Confirmed:
        return only(self.parent.receive_confirm(self.child.confirm()), Confirmed)


class _Unextended(Lineage, frozen=True):
    def extended(self, certificate: ForkCertificate) -> Lineage:
        return self


class CompromisedParent:
    """Holds all that a genuine parent holds, and changes it before it answers."""

    def __init__(self, fork: Fork) -> None:
        self._session: Any = fork.parent
        self._fork = fork

    def claims(self, *, generation: int | None = None, **lineage: Any) -> None:
        """Another descent than its own; ``lineage`` are fields of it."""
        self._session._lineage = replace(self._session._lineage, **lineage)
        if generation is not None:
            self._session._slot = replace(self._session._slot, generation=generation)

    def certifies(self, signer: InstanceKey | None = None, **changes: Any) -> None:
        """Another certificate for its child than the true one, and truly signed."""
        session, key = self._session, signer or self._session._instance

        def descent(child: bytes, slot: Slot, manifest: bytes) -> bytes:
            certificate = slot.certify(session._instance, child, manifest)
            changed = replace(certificate, **changes).signed(key)
            return cast(bytes, session._lineage.extended(changed).encode())

        session._descent = descent

    def promises(self, **state: Any) -> None:
        """Fields of what its session holds now are others."""
        self._session._state = replace(self._session._state, **state)

    def certifies_nothing(self) -> None:
        """Its own lineage in place of its child's."""
        own = self._session._lineage
        self._session._lineage = _Unextended(**asdict(own))

    def grant(self, **state: Any) -> bytes:
        """The GRANT after fields of its session's state were changed."""
        need = only(self._session.receive_join(self._fork.join(), 1.0), NeedEvidence)
        self.promises(**state)
        evidence = self._fork.root.evidence(need.report_data)
        return only(self._session.provide_evidence(evidence, 1.0), Send).message
