"""Each genuine sample gets exactly the verdict that the folder's README writes down for it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from sevfork.attest.snp.certificates import AMD_ROOTS, CertificateTable, Endorsement
from sevfork.attest.snp.report import Product, SnpReport, Tcb
from sevfork.attest.verdict import Verdict
from sevfork.attest.verify import judge
from sevfork.attest.x509 import Certificate, RevocationList, Scheme
from sevfork.errors import AttestationFailed
from tests.support import snp_samples as samples
from tests.support.fake_amd import failed

NOW = datetime(2025, 6, 1, tzinfo=UTC)
PATH_CHECKS = (
    "root", "signature on the ARK", "signature on the ASK", "signature on the leaf", "signature",
)  # fmt: skip


def path_is_good(verdict: Verdict) -> bool:
    made = {check.name: check.passed for check in verdict.checks}
    return all(made[name] for name in PATH_CHECKS)


def test_virtee_milan_report_is_the_positive_baseline(vectors: Path) -> None:
    verdict = judge(samples.milan_baseline(vectors), samples.AMD_POLICY, None, NOW)
    assert failed(verdict) == []
    assert verdict.passed


def test_go_sev_guest_report_is_good_but_for_debug(vectors: Path) -> None:
    verdict = judge(samples.milan_debug(vectors), samples.AMD_POLICY, None, NOW)
    assert path_is_good(verdict)
    assert [(check.name, check.got) for check in verdict.failures] == [
        ("guest policy", "smt, debug")
    ]


def test_trustee_vlek_report_is_good_but_for_vmpl_chip_and_provisional_firmware(
    vectors: Path,
) -> None:
    verdict = judge(samples.milan_vlek(vectors), samples.AMD_POLICY, None, NOW)
    assert path_is_good(verdict)
    assert failed(verdict) == ["running TCB", "chip id", "VMPL"]
    lenient = samples.amd_policy(
        vmpl=(1,), allow_provisional_firmware=True, allow_masked_chip_id=True
    )
    assert failed(judge(samples.milan_vlek(vectors), lenient, None, NOW)) == []


@pytest.mark.parametrize(
    "at", [datetime(2024, 12, 9, tzinfo=UTC), datetime(2025, 12, 11, tzinfo=UTC)]
)
def test_trustee_vlek_outside_its_year_is_rejected(vectors: Path, at: datetime) -> None:
    verdict = judge(samples.milan_vlek(vectors), samples.AMD_POLICY, None, at)
    assert "validity of the leaf" in failed(verdict)


def test_trustee_doctored_vcek_is_rejected(vectors: Path) -> None:
    doctored = (vectors / "trustee/snp/test-vcek-invalid-new.der").read_bytes()
    good = samples.milan_baseline(vectors)
    table = replace(CertificateTable.decode(good.certificates), vcek=doctored)
    verdict = judge(replace(good, certificates=table.encode()), samples.AMD_POLICY, None, NOW)
    assert {"signature on the leaf", "signature"} <= set(failed(verdict))
    assert Endorsement.decode(Certificate.decode(doctored).extensions).tcb.microcode


def test_virtee_turin_vcek_is_read_and_its_chain_is_good(vectors: Path) -> None:
    folder = vectors / "virtee-sev"
    vcek = Certificate.decode((folder / "vcek_turin.der").read_bytes())
    ask, ark = map(Certificate.decode, samples.chain(folder / "cert_chain_turin"))
    endorsement = Endorsement.decode(vcek.extensions)
    assert endorsement.tcb == Tcb(bootloader=0, tee=0, snp=0, microcode=9, fmc=0)
    assert endorsement.hardware_id == bytes.fromhex("1e550a8ee5cf9f4d")
    assert vcek.issued_by(ask, Scheme.AMD)
    assert ask.issued_by(ark, Scheme.AMD)
    assert ark.issued_by(ark, Scheme.AMD)
    assert ark.fingerprint == AMD_ROOTS[Product.TURIN]


def test_vcek_with_serial_number_0_still_loads(vectors: Path) -> None:
    """``cryptography`` warns that it will refuse this one day: hence its upper bound."""
    vcek = Certificate.decode((vectors / "virtee-sev/vcek_milan.der").read_bytes())
    assert vcek.serial == 0
    assert vcek.common_name == "SEV-VCEK"


@pytest.mark.parametrize(
    "name", ["milan", "genoa", "turin_vcek", "milan_vlek", "genoa_vlek", "turin_vlek"]
)
def test_published_chains_end_in_the_pinned_roots(vectors: Path, name: str) -> None:
    ask, ark = map(
        Certificate.decode, samples.chain(vectors / f"go-sev-guest/trust/ask_ark_{name}.pem")
    )
    product = Product(name.split("_")[0].capitalize())
    assert ark.fingerprint == AMD_ROOTS[product]
    assert ask.issued_by(ark, Scheme.AMD)
    assert ask.may_issue
    assert ask.common_name == f"SEV-{'VLEK-' if name.endswith('vlek') else ''}{product.value}"


def test_genoa_chain_under_a_milan_report_is_rejected(vectors: Path) -> None:
    good = samples.milan_baseline(vectors)
    ask, ark = samples.chain(vectors / "go-sev-guest/trust/ask_ark_genoa.pem")
    table = replace(CertificateTable.decode(good.certificates), ask=ask, ark=ark)
    verdict = judge(replace(good, certificates=table.encode()), samples.AMD_POLICY, None, NOW)
    assert {"product of the certificate", "signature on the leaf"} <= set(failed(verdict))


def test_milans_asvk_in_place_of_its_ask_is_rejected(vectors: Path) -> None:
    good = samples.milan_baseline(vectors)
    asvk, _ = samples.chain(vectors / "go-sev-guest/trust/ask_ark_milan_vlek.pem")
    table = replace(CertificateTable.decode(good.certificates), ask=asvk)
    verdict = judge(replace(good, certificates=table.encode()), samples.AMD_POLICY, None, NOW)
    assert failed(verdict) == ["name of the ASK", "signature on the leaf"]


def test_another_chips_vcek_is_rejected(vectors: Path) -> None:
    good, other = samples.milan_baseline(vectors), samples.milan_debug(vectors)
    verdict = judge(replace(good, certificates=other.certificates), samples.AMD_POLICY, None, NOW)
    assert failed(verdict) == ["signature", "reported TCB", "hardware id of the certificate"]


def test_file_chain_pem_and_der_are_the_same_certificate(vectors: Path) -> None:
    pem, _ = samples.chain(vectors / "virtee-sev/cert_chain_milan")
    certificate = Certificate.decode(pem)
    assert Certificate.decode(certificate.der) == certificate


def test_a_certificate_is_no_revocation_list(vectors: Path) -> None:
    with pytest.raises(AttestationFailed, match="revocation list"):
        RevocationList.decode((vectors / "virtee-sev/vcek_milan.der").read_bytes())


def test_genuine_report_fields(vectors: Path) -> None:
    report = SnpReport.decode(samples.milan_baseline(vectors).report)
    assert (report.version, report.vmpl, report.policy) == (2, 0, 0x30000)
    assert Tcb.decode(report.reported_tcb, Product.MILAN) == Tcb(3, 0, 8, 115)
    assert str(report.committed_firmware) == "1.52.4"
