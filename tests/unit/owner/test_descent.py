"""A whole descent, as an owner checks it offline, and what an operator could hand over instead."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from sevfork.attest.policy import Policy
from sevfork.attest.verdict import EvidenceRejected
from sevfork.errors import AttestationFailed, InsecureRefused, NotAuthentic, UsageError
from sevfork.handshake import Allowance, InstanceKey, Lineage, owner_digest
from sevfork.image.image import Image
from sevfork.lifecycle.find import running_vm
from sevfork.lifecycle.fork import ForkRequest, plan_fork, run_fork
from sevfork.owner.asking import lineage_of
from sevfork.owner.authorisation import authorise
from sevfork.owner.descent import Descent, checked, of_attested
from sevfork.owner.documents import AdoptionReply, NamedStatement, SavedLineage
from sevfork.verifier.attest import Attestation
from sevfork.verifier.policies import default_policy
from sevfork.wire import protocol
from tests.support import simulators
from tests.support.fake_guests import FakeHouse
from tests.support.image_factory import write_image
from tests.support.jobs import job_on
from tests.support.owners import OWNER, OWNER_DIGEST, OWNER_KEY, adopted_root, lineage_file

AT = datetime(2026, 6, 1, tzinfo=UTC)
NAMES = ("web", "web-fork", "web-fork-fork")


def policy() -> Policy:
    return default_policy([simulators.processor().root_fingerprint])


def check(saved: SavedLineage, owner: bytes = OWNER_DIGEST) -> Descent:
    return checked(saved, owner, policy(), AT, allow_simulated=True)


def saved(house: FakeHouse, name: str) -> SavedLineage:
    _, spec = running_vm(house, name, "tell")
    return lineage_of(job_on(house), spec, lambda text: pytest.fail(text))


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image.load(write_image(tmp_path / "image"))


@pytest.fixture
def grandchild(house: FakeHouse, image: Image) -> SavedLineage:
    """The lineage of a grandchild, its parent and its root still running."""
    adopted_root(house, image)
    for name in NAMES[:2]:
        run_fork(job_on(house), plan_fork(house, ForkRequest(name)))
    return saved(house, NAMES[2])


def test_a_descent_passes_from_the_owner_to_the_vm(
    grandchild: SavedLineage, tmp_path: Path
) -> None:
    grandchild.write(tmp_path / "lineage")
    descent = check(SavedLineage.read(tmp_path / "lineage"))
    assert descent.owner_key == OWNER_KEY
    assert [member.vm for member in descent.members] == list(NAMES)
    assert [member.generation for member in descent.members] == [0, 1, 2]
    assert all(member.verdict and member.verdict.passed for member in descent.members)


def test_a_descent_of_four_forks_passes() -> None:
    descent = check(lineage_file(simulators.processor(), 4))
    assert [member.generation for member in descent.members] == [0, 1, 2, 3, 4]


def test_an_ancestor_that_is_gone_leaves_its_childs_word(
    house: FakeHouse, grandchild: SavedLineage
) -> None:
    house.end(house.find("web").uuid)
    descent = check(saved(house, NAMES[2]))
    assert [bool(member.verdict) for member in descent.members] == [False, True, True]


def test_lineage_of_another_owners_family_is_refused(grandchild: SavedLineage) -> None:
    stranger = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(NotAuthentic, match="another owner"):
        check(grandchild, owner_digest(stranger))


def relinked(saved: SavedLineage, *order: int) -> SavedLineage:
    """With these of its certificates, in this order."""
    lineage = Lineage.decode(saved.lineage)
    links = tuple(lineage.certificates[index] for index in order)
    changed = replace(lineage, certificates=links).encode()
    return replace(saved, lineage=changed)


@pytest.mark.parametrize("order", [(0,), (1,), (1, 0), (0, 0, 1), ()])
def test_lineage_with_a_link_left_out_reordered_or_repeated_is_refused(
    grandchild: SavedLineage, order: tuple[int, ...]
) -> None:
    with pytest.raises(NotAuthentic):
        check(relinked(grandchild, *order))


def test_lineage_of_a_sibling_family_is_refused_for_this_vm(
    house: FakeHouse, image: Image, grandchild: SavedLineage
) -> None:
    """The same owner, another root: its signatures are good, and it is not this VM's."""
    adopted_root(house, image, "other")
    other = saved(house, "other")
    with pytest.raises(NotAuthentic, match="none of this descent"):
        check(replace(grandchild, lineage=other.lineage))


def test_lineage_of_a_parent_is_refused_for_its_child(grandchild: SavedLineage) -> None:
    with pytest.raises(NotAuthentic, match="that of another VM"):
        check(replace(grandchild, statements=grandchild.statements[1:]))


def test_lineage_of_another_member_is_refused_for_a_vm_that_was_judged(
    grandchild: SavedLineage,
) -> None:
    (mine, parent, _) = grandchild.statements
    for each, refused in ((mine, False), (parent, True)):
        verdict = each.statement.judged(policy(), AT, allow_simulated=True)
        attested = Attestation(each.vm, each.statement, verdict)
        with pytest.raises(NotAuthentic, match="another VM") if refused else nullcontext():
            of_attested(attested, grandchild.lineage, OWNER_DIGEST)


def test_nothing_is_signed_for_a_lineage_without_evidence(grandchild: SavedLineage) -> None:
    silent = replace(grandchild, statements=())
    with pytest.raises(AttestationFailed, match="no evidence of the VM itself"):
        authorise(silent, OWNER, policy(), AT, Allowance(1), allow_simulated=True)


def claiming(saved: SavedLineage, place: int, **claims: Any) -> SavedLineage:
    """One of the VMs claims something else; its evidence is for what it has said."""
    statements = list(saved.statements)
    each = statements[place]
    changed = replace(each.statement.status, **claims)
    statement = replace(each.statement, claims=protocol.encode(changed))
    statements[place] = NamedStatement(each.vm, statement)
    return replace(saved, statements=tuple(statements))


@pytest.mark.parametrize("generation", [0, 1, 3])
def test_vm_that_claims_a_wrong_generation_is_refused(
    grandchild: SavedLineage, generation: int
) -> None:
    with pytest.raises(NotAuthentic, match="another generation"):
        check(claiming(grandchild, 0, generation=generation))


def test_vm_that_is_in_no_place_is_refused(grandchild: SavedLineage) -> None:
    with pytest.raises(NotAuthentic, match="none of this descent"):
        check(claiming(grandchild, 0, instance_key=InstanceKey().public))


def test_vm_that_takes_the_place_of_another_is_refused(grandchild: SavedLineage) -> None:
    """The claims fit, and no processor has signed them."""
    key = grandchild.statements[2].statement.status.instance_key
    claims = {"instance_key": key, "generation": 0}
    with pytest.raises(NotAuthentic, match="root must be launched as one"):
        check(claiming(grandchild, 1, **claims))
    forged = claiming(grandchild, 1, workload="theirs")
    with pytest.raises(EvidenceRejected, match="report data"):
        check(forged)


def test_vm_that_was_launched_for_another_tenant_is_refused(grandchild: SavedLineage) -> None:
    """A host gave the child another owner's key: what it claims shows it."""
    config = bytearray(grandchild.statements[0].statement.status.launch_config)
    config[8] ^= 1
    with pytest.raises(NotAuthentic, match="another owner"):
        check(claiming(grandchild, 0, launch_config=bytes(config)))


def test_claimed_launch_that_the_processor_has_not_signed_is_refused(
    grandchild: SavedLineage,
) -> None:
    config = bytearray(grandchild.statements[0].statement.status.launch_config)
    config[-1] ^= 1  # of the OFFER's digest
    with pytest.raises(EvidenceRejected, match="launch configuration|report data"):
        check(claiming(grandchild, 0, launch_config=bytes(config)))


def test_simulated_evidence_has_to_be_asked_for(grandchild: SavedLineage) -> None:
    with pytest.raises(InsecureRefused):
        checked(grandchild, OWNER_DIGEST, policy(), AT)


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 100_000, b'{"kind": "sevfork lineage"}'])
def test_what_is_no_lineage_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(UsageError, match="no document"):
        SavedLineage.read(path)


def test_one_document_is_not_taken_for_another(tmp_path: Path) -> None:
    path = tmp_path / "reply"
    AdoptionReply(vm="web", certificate=b"x").write(path)
    with pytest.raises(UsageError, match="sevfork lineage"):
        SavedLineage.read(path)
