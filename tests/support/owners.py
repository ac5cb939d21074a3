"""An owner, a family that is theirs, and its lineage as a file."""

from __future__ import annotations

import secrets

from sevfork.domain.spec import GuestSpec
from sevfork.handshake import ForkCertificate, InstanceKey, Lineage, OwnerCertificate, owner_digest
from sevfork.handshake.launch import LaunchConfig, Role, launch_config_hash
from sevfork.image.image import Image
from sevfork.lifecycle.up import UpRequest, plan_up, run_up
from sevfork.owner.asking import hand_over
from sevfork.owner.documents import NamedStatement, SavedLineage
from sevfork.owner.key_file import PrivateKey
from sevfork.owner.public_key import openssh_line
from sevfork.simulated.processor import SimulatedProcessor
from sevfork.technology import Technology
from sevfork.verifier.statement import Statement
from sevfork.wire import protocol
from tests.support.fake_guests import STATE, FakeHouse
from tests.support.jobs import job_on

OWNER = PrivateKey.generate()
OWNER_KEY = OWNER.public
OWNER_DIGEST = owner_digest(OWNER_KEY)
OWNER_LINE = openssh_line(OWNER_KEY)
STRANGER_LINE = openssh_line(PrivateKey.generate().public)


def certificate_for(root_key: bytes) -> bytes:
    """The owner's word on a root, encoded."""
    return OwnerCertificate.issue(OWNER, root_key).encode()


def owned_root(house: FakeHouse, image: Image, name: str = "web") -> GuestSpec:
    """A running root that names the owner, who has not adopted it."""
    request = UpRequest(name, image, owner=OWNER_DIGEST)
    spec = run_up(job_on(house), plan_up(house, request)).spec
    house.guests[spec.uuid].state = STATE
    return spec


def adopted_root(house: FakeHouse, image: Image, name: str = "web") -> GuestSpec:
    spec = owned_root(house, image, name)
    status = house.guests[spec.uuid].agent.handle(protocol.GetStatus(), lambda *_: None)
    assert isinstance(status, protocol.Status)
    hand_over(job_on(house), spec, certificate_for(status.instance_key))
    return spec


def lineage_file(processor: SimulatedProcessor, depth: int) -> SavedLineage:
    """Of a VM with so many forks behind it, and the evidence of every VM, as if all were asked."""
    keys = [InstanceKey() for _ in range(depth + 1)]
    lineage = Lineage(keys[0].public, OwnerCertificate.issue(OWNER, keys[0].public))
    for generation, (parent, child) in enumerate(zip(keys, keys[1:], strict=False), 1):
        place = (secrets.token_bytes(16), 0, generation, secrets.token_bytes(48))
        link = ForkCertificate(parent.public, child.public, *place).signed(parent)
        lineage = lineage.extended(link)
    statements = [
        NamedStatement(f"vm{generation}", _statement(processor, generation, key.public))
        for generation, key in reversed(list(enumerate(keys)))
    ]
    return SavedLineage(vm=f"vm{depth}", lineage=lineage.encode(), statements=tuple(statements))


def _statement(processor: SimulatedProcessor, generation: int, key: bytes) -> Statement:
    said, config = unsigned_statement(Technology.SIMULATED, generation, key)
    signed = launch_config_hash(Technology.SIMULATED, config)
    evidence = processor.report(b"m" * 48, signed, secrets.token_bytes(32), said.report_data)
    return Statement(said.nonce, said.claims, evidence.encode())


def unsigned_statement(
    technology: Technology, generation: int, key: bytes
) -> tuple[Statement, bytes]:
    """What a VM of the owner's says, without evidence yet, and its launch configuration."""
    offer = secrets.token_bytes(48) if generation else None
    role = Role.CHILD if generation else Role.ROOT
    config = LaunchConfig(role, OWNER_DIGEST, offer).encode()
    claims = protocol.Status(
        version="1",
        technology=technology.value,
        phase=protocol.WorkloadPhase.READY,
        detail="",
        uncapturable=None,
        role=role.name.lower(),
        generation=generation,
        instance_key=key,
        policy_digest=b"p" * 48,
        fork_policy="owner",
        workload="w",
        launch_config=config,
    )
    return Statement(secrets.token_bytes(32), protocol.encode(claims), b""), config
