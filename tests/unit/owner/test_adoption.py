"""What an owner checks of a VM before they vouch for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from sevfork.attest.policy import Policy
from sevfork.attest.verdict import EvidenceRejected, Verdict
from sevfork.domain.spec import GuestSpec
from sevfork.errors import AttestationFailed, InsecureRefused, NotAuthentic, UsageError
from sevfork.handshake import owner_digest
from sevfork.handshake.launch import launch_config_hash
from sevfork.image.image import Image
from sevfork.lifecycle.find import running_vm
from sevfork.lifecycle.fork import ForkRequest, plan_fork, run_fork
from sevfork.lifecycle.up import UpRequest, plan_up, run_up
from sevfork.owner.adoption import checked
from sevfork.owner.nonce import new_nonce, read_nonce
from sevfork.technology import Technology
from sevfork.verifier.attest import statement_of
from sevfork.verifier.measure import Firmware, pin_files
from sevfork.verifier.policies import default_policy
from sevfork.verifier.statement import Statement
from sevfork.wire import protocol
from tests.support import simulators
from tests.support.fake_guests import FakeHouse
from tests.support.fake_intel import NOW
from tests.support.image_factory import CONTENTS, write_image
from tests.support.jobs import job_on
from tests.support.owners import OWNER_DIGEST, adopted_root, owned_root, unsigned_statement
from tests.support.tdx_examined import INTEL
from tests.support.tdx_samples import tdx_policy

AT = datetime(2026, 6, 1, tzinfo=UTC)


@dataclass
class Scene:
    """A root that names the owner, and what the owner makes of it."""

    house: FakeHouse
    image: Image
    spec: GuestSpec

    def statement(self, name: str = "web") -> Statement:
        _, spec = running_vm(self.house, name, "speak")
        return statement_of(job_on(self.house), spec, new_nonce())

    def check(self, statement: Statement, policy: Policy | None = None) -> Verdict:
        policy = policy or pin_files(any_launch(), self.image, Firmware())
        return checked(statement, policy, AT, OWNER_DIGEST, allow_simulated=True)


def any_launch() -> Policy:
    return default_policy([simulators.processor().root_fingerprint])


@pytest.fixture
def scene(house: FakeHouse, tmp_path: Path) -> Scene:
    image = Image.load(write_image(tmp_path / "image"))
    return Scene(house, image, owned_root(house, image))


def test_a_root_of_the_owners_passes_every_check(scene: Scene) -> None:
    names = {check.name for check in scene.check(scene.statement()).checks}
    assert {"measurement", "launch configuration", "report data"} <= names


def test_a_policy_that_takes_any_image_is_refused(scene: Scene) -> None:
    with pytest.raises(InsecureRefused, match="any image"):
        scene.check(scene.statement(), any_launch())


def tdx_root() -> Statement:
    """With a quote that a fake Intel has signed for it."""
    said, config = unsigned_statement(Technology.TDX, 0, b"k" * 32)
    signed = launch_config_hash(Technology.TDX, config)
    quoted = INTEL.but(td={"report_data": said.report_data, "mrconfigid": signed})
    return msgspec.structs.replace(said, evidence=quoted.evidence().encode())


TDX_LAUNCH = {"mrtd": ("77" * 48,), "rtmr1": ("00" * 48,), "rtmr2": ("00" * 48,)}


def test_a_tdx_root_is_adopted_by_its_registers() -> None:
    policy = tdx_policy(INTEL.root_sha256, **TDX_LAUNCH)
    assert checked(tdx_root(), policy, NOW, OWNER_DIGEST).passed


@pytest.mark.parametrize("register", TDX_LAUNCH)
def test_a_policy_that_takes_any_firmware_kernel_or_root_is_refused(register: str) -> None:
    policy = tdx_policy(INTEL.root_sha256, **{**TDX_LAUNCH, register: "any"})
    with pytest.raises(InsecureRefused, match="any image"):
        checked(tdx_root(), policy, NOW, OWNER_DIGEST)


def test_a_vm_of_another_image_is_refused(scene: Scene, tmp_path: Path) -> None:
    """Its manifest promises the digest of the VM's image, and is not believed."""
    other = write_image(tmp_path / "other")
    (other / "vmlinuz").write_bytes(bytes(len(CONTENTS["vmlinuz"])))
    pinned = pin_files(any_launch(), Image.load(other), Firmware())
    with pytest.raises(EvidenceRejected, match="measurement"):
        scene.check(scene.statement(), pinned)


def test_a_child_is_refused_and_has_no_need(house: FakeHouse, scene: Scene) -> None:
    adopted_root(house, scene.image, "root")
    run_fork(job_on(house), plan_fork(house, ForkRequest("root")))
    with pytest.raises(AttestationFailed, match="is a child"):
        scene.check(scene.statement("root-fork"))


@pytest.mark.parametrize(
    ("owner", "reason"), [(None, "without an owner"), (owner_digest(b"x" * 32), "another owner")]
)
def test_a_vm_that_was_launched_for_nobody_or_another_owner_is_refused(
    scene: Scene, owner: bytes | None, reason: str
) -> None:
    request = UpRequest("theirs", scene.image, owner=owner)
    run_up(job_on(scene.house), plan_up(scene.house, request))
    with pytest.raises(AttestationFailed, match=reason):
        scene.check(scene.statement("theirs"))


def test_a_vm_of_another_owner_that_claims_to_be_ours_is_refused(scene: Scene) -> None:
    request = UpRequest("theirs", scene.image, owner=owner_digest(b"x" * 32))
    run_up(job_on(scene.house), plan_up(scene.house, request))
    ours = scene.statement().status.launch_config
    theirs = scene.statement("theirs")
    claims = msgspec.structs.replace(theirs.status, launch_config=ours)
    forged = msgspec.structs.replace(theirs, claims=protocol.encode(claims))
    with pytest.raises(EvidenceRejected, match="launch configuration|report data"):
        scene.check(forged)


def test_instance_key_swapped_by_the_host_is_refused(scene: Scene) -> None:
    said = scene.statement()
    claims = msgspec.structs.replace(said.status, instance_key=b"k" * 32)
    forged = msgspec.structs.replace(said, claims=protocol.encode(claims))
    with pytest.raises(EvidenceRejected, match="report data"):
        scene.check(forged)


def test_evidence_for_an_old_nonce_is_refused(scene: Scene) -> None:
    old = msgspec.structs.replace(scene.statement(), nonce=new_nonce())
    with pytest.raises(EvidenceRejected, match="report data"):
        scene.check(old)


@pytest.mark.parametrize("position", [0x50, 0x90, 0xC0, 0x2A0 + 12])
def test_evidence_with_a_flipped_bit_is_refused(scene: Scene, position: int) -> None:
    said = scene.statement()
    evidence = bytearray(said.evidence)
    evidence[position] ^= 1
    with pytest.raises(AttestationFailed):
        scene.check(msgspec.structs.replace(said, evidence=bytes(evidence)))


def test_claims_that_are_none_are_refused(scene: Scene) -> None:
    with pytest.raises(NotAuthentic):
        scene.check(msgspec.structs.replace(scene.statement(), claims=b"\xc1"))


def test_a_vm_that_was_told_nothing_yet_is_refused(scene: Scene) -> None:
    said = scene.statement()
    claims = msgspec.structs.replace(said.status, launch_config=b"")
    with pytest.raises(AttestationFailed, match="does not know yet"):
        scene.check(msgspec.structs.replace(said, claims=protocol.encode(claims)))


def test_simulated_evidence_has_to_be_asked_for(scene: Scene) -> None:
    policy = pin_files(any_launch(), scene.image, Firmware())
    with pytest.raises(InsecureRefused, match="simulated"):
        checked(scene.statement(), policy, AT, OWNER_DIGEST)


def test_a_nonce_is_text_or_a_file_of_it(tmp_path: Path) -> None:
    nonce, path = new_nonce(), tmp_path / "nonce"
    path.write_text(f"{nonce.hex()}\n")
    assert read_nonce(nonce.hex()) == read_nonce(str(path)) == nonce


@pytest.mark.parametrize("content", [b"", b"00", b"zz" * 32, b"0" * 65, b"\xff" * 2000])
def test_what_is_no_nonce_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "nonce"
    path.write_bytes(content)
    for text in (str(path), content.decode("latin-1"), "/nonsuch"):
        with pytest.raises(UsageError):
            read_nonce(text)
