"""The simulated secure processor: accepted under its own root, never taken for a genuine one."""

from __future__ import annotations

import itertools
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from msgspec.structs import replace

from sevfork.attest.defaults import SIMULATED_MINIMUM, policy_toml
from sevfork.attest.evidence import Evidence
from sevfork.attest.policy import Policy
from sevfork.attest.snp.certificates import AMD_ROOTS, CertificateTable, Endorsement
from sevfork.attest.snp.report import Cpuid, SnpReport
from sevfork.attest.verdict import Verdict
from sevfork.attest.verify import Expected, judge, verify
from sevfork.attest.x509 import Certificate
from sevfork.errors import HostCannot, UsageError
from sevfork.simulated.processor import SimulatedProcessor
from sevfork.technology import Technology
from tests.support import simulators
from tests.support.fake_amd import failed

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DATA = bytes(range(64))


@pytest.fixture
def processor() -> SimulatedProcessor:
    return simulators.processor()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The directory of a processor that was made there, with RSA keys that were at hand."""
    directory = tmp_path / "deep" / "er"
    with monkeypatch.context() as patched:
        give_keys(patched)
        SimulatedProcessor.load_or_create(directory)
    return directory


def give_keys(monkeypatch: pytest.MonkeyPatch, meet: Callable[[], object] = lambda: None) -> None:
    """Whoever makes RSA keys of 4096 bits gets the known ones, once he has met the others."""
    keys = itertools.cycle(simulators.rsa_keys())

    def generate(public_exponent: int, key_size: int) -> rsa.RSAPrivateKey:
        assert (public_exponent, key_size) == (65537, 4096)
        meet()
        return next(keys)

    monkeypatch.setattr(rsa, "generate_private_key", generate)


def policy(processor: SimulatedProcessor, *technologies: Technology) -> Policy:
    accepted = technologies or (Technology.SIMULATED,)
    text = policy_toml(accepted, [processor.root_fingerprint], NOW, minimum_tcb=SIMULATED_MINIMUM)
    return Policy.decode(text.encode())


def report(processor: SimulatedProcessor, **changes: object) -> Evidence:
    fields = {"measurement": b"m" * 48, "host_data": b"h" * 32, "report_id": b"i" * 32}
    return processor.report(**{**fields, "report_data": DATA, **changes})  # type: ignore[arg-type]


def judged(evidence: Evidence, accepted: Policy) -> Verdict:
    return judge(evidence, accepted, Expected(DATA), NOW)


def test_its_evidence_verifies_and_says_what_was_asked(processor: SimulatedProcessor) -> None:
    verified = verify(report(processor), policy(processor), Expected(DATA), NOW)
    assert verified.technology is Technology.SIMULATED
    assert verified.report_data == DATA
    assert verified.launch_config_hash == b"h" * 32
    assert verified.report_id == b"i" * 32
    assert verified.chip_id == processor.chip_id
    assert dict(verified.launch_identity.parts)["measurement"] == b"m" * 48


def test_report_has_the_format_of_a_genuine_version_3_report(processor: SimulatedProcessor) -> None:
    parsed = SnpReport.decode(report(processor).report)
    assert (parsed.version, parsed.vmpl, parsed.policy) == (3, 0, 0x30000)
    assert parsed.cpuid == Cpuid(0, 0, 0)


def test_debug_policy_is_signed_like_hardware_would_and_rejected(
    processor: SimulatedProcessor,
) -> None:
    evidence = report(processor, policy=0xB0000)
    assert failed(judged(evidence, policy(processor))) == ["guest policy"]


def test_every_name_in_the_chain_says_simulated(processor: SimulatedProcessor) -> None:
    ark, ask, vcek = (
        Certificate.decode(content)
        for content in (
            processor.certificates.ark, processor.certificates.ask, processor.certificates.vcek,
        )
    )  # fmt: skip
    assert (ark.common_name, ask.common_name) == ("ARK-Simulated", "SEV-Simulated")
    assert Endorsement.decode(vcek.extensions).product_name == "Simulated"
    for certificate in (ark, ask, vcek):
        assert b"simulated, not confidential" in certificate.subject


def test_simulated_evidence_relabelled_as_genuine_is_rejected(
    processor: SimulatedProcessor,
) -> None:
    """Even under a policy that pins the simulator's root for hardware."""
    evidence = replace(report(processor), technology=Technology.SEV_SNP)
    both = policy(processor, Technology.SIMULATED, Technology.SEV_SNP)
    assert failed(judged(evidence, both)) == ["product"]


def test_simulated_evidence_is_rejected_by_a_policy_for_hardware(
    processor: SimulatedProcessor,
) -> None:
    text = policy_toml([Technology.SEV_SNP], list(AMD_ROOTS.values()), NOW)
    hardware = Policy.decode(text.encode())
    assert failed(judged(report(processor), hardware)) == ["technology"]
    relabelled = replace(report(processor), technology=Technology.SEV_SNP)
    assert {"product", "root"} <= set(failed(judged(relabelled, hardware)))


def test_another_simulators_root_is_rejected(processor: SimulatedProcessor) -> None:
    other = simulators.processor("two")
    assert failed(judged(report(other), policy(processor))) == ["root"]


def test_one_that_is_made_now_is_another_and_as_good(
    processor: SimulatedProcessor, made: Path
) -> None:
    new = SimulatedProcessor.load_or_create(made)
    assert judged(report(new), policy(new)).passed
    assert failed(judged(report(new), policy(processor))) == ["root"]
    assert new.chip_id != processor.chip_id


def test_it_is_the_same_processor_next_time(made: Path) -> None:
    first, again = (SimulatedProcessor.load_or_create(made) for _ in range(2))
    assert again.root_fingerprint == first.root_fingerprint
    assert again.chip_id == first.chip_id
    assert judged(report(again), policy(first)).passed


def test_its_file_is_its_owners_alone(made: Path) -> None:
    (path,) = made.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_only_the_leafs_private_key_is_kept(processor: SimulatedProcessor, made: Path) -> None:
    (path,) = made.iterdir()
    assert path.read_bytes().count(b"PRIVATE KEY-----\n") == 2  # its begin and its end
    assert "PRIVATE" not in repr(processor)


def test_those_who_race_get_the_same_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have found none before either has made one."""
    give_keys(monkeypatch, threading.Barrier(2, timeout=60).wait)
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(SimulatedProcessor.load_or_create, [tmp_path] * 2))
    assert made[0].root_fingerprint == made[1].root_fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["simulated-processor.pem"]


@pytest.mark.parametrize("content", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\n"])
def test_damaged_file_is_an_error_that_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "simulated-processor.pem").write_bytes(content)
    with pytest.raises(HostCannot, match="damaged") as caught:
        SimulatedProcessor.load_or_create(tmp_path)
    assert caught.value.hint is not None
    assert "remove it" in caught.value.hint


def test_directory_that_cannot_be_made_is_our_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody waits for keys before that is said."""
    monkeypatch.delattr(rsa, "generate_private_key")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HostCannot, match="cannot be"):
        SimulatedProcessor.load_or_create(tmp_path / "file" / "simulator")


@pytest.mark.parametrize("name", ["measurement", "host_data", "report_id", "report_data"])
def test_field_of_a_wrong_length_is_an_error(processor: SimulatedProcessor, name: str) -> None:
    with pytest.raises(UsageError, match="bytes, want"):
        report(processor, **{name: b"short"})


def test_table_is_what_a_guest_would_get(processor: SimulatedProcessor) -> None:
    table = CertificateTable.decode(report(processor).certificates)
    assert table == processor.certificates
    assert not table.vlek
