"""Evidence in the JSON of other tools: names and ways to write bytes as they have them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevfork.attest.evidence import Evidence
from sevfork.attest.snp.certificates import CertificateTable
from sevfork.attest.verify import Expected, judge
from sevfork.errors import AttestationFailed
from sevfork.technology import Technology
from sevfork.verifier.certificate_files import CertificateFile
from sevfork.verifier.pool import Pool
from sevfork.verifier.recognise import recognise
from tests.support import fake_amd
from tests.support.fake_amd import NOW, REPORT_DATA, Part, failed
from tests.support.fake_intel import FakeIntel

PART = Part()
REPORT, TABLE = PART.report(), PART.certificates()
QUOTE = FakeIntel().quote()
# Azure's paravisor: a header of 32 bytes, the report, and claims of the vTPM.
HCL = b"HCLA" + bytes(28) + REPORT + bytes(20) + b'{"keys":[]}'
HCL_OF_A_TD = b"HCLA" + bytes(28) + b"\x81" + bytes(1183) + bytes(20) + b"{}"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def fields(report: bytes) -> dict[str, Any]:
    """As AMD's sev crate takes a report apart, in trustee's evidence."""

    def number(at: int, size: int) -> int:
        return int.from_bytes(report[at : at + size], "little")

    def octets(at: int, size: int) -> list[int]:
        return list(report[at : at + size])

    def tcb(at: int) -> dict[str, int | None]:
        return {
            "fmc": None,
            "bootloader": report[at],
            "tee": report[at + 1],
            "snp": report[at + 6],
            "microcode": report[at + 7],
        }

    def firmware(at: int) -> dict[str, int]:
        return {"build": report[at], "minor": report[at + 1], "major": report[at + 2]}

    return {
        "version": number(0, 4),
        "guest_svn": number(4, 4),
        "policy": number(8, 8),
        "family_id": octets(0x10, 16),
        "image_id": octets(0x20, 16),
        "vmpl": number(0x30, 4),
        "sig_algo": number(0x34, 4),
        "current_tcb": tcb(0x38),
        "plat_info": number(0x40, 8),
        "key_info": number(0x48, 4),
        "report_data": octets(0x50, 64),
        "measurement": octets(0x90, 48),
        "host_data": octets(0xC0, 32),
        "id_key_digest": octets(0xE0, 48),
        "author_key_digest": octets(0x110, 48),
        "report_id": octets(0x140, 32),
        "report_id_ma": octets(0x160, 32),
        "reported_tcb": tcb(0x180),
        "cpuid_fam_id": report[0x188],
        "cpuid_mod_id": report[0x189],
        "cpuid_step": report[0x18A],
        "chip_id": octets(0x1A0, 64),
        "committed_tcb": tcb(0x1E0),
        "current": firmware(0x1E8),
        "committed": firmware(0x1EC),
        "launch_tcb": tcb(0x1F0),
        "signature": {"r": octets(0x2A0, 72), "s": octets(0x2E8, 72)},
    }


PEM = "-----BEGIN CERTIFICATE-----\n" + b64(TABLE.vcek) + "\n-----END CERTIFICATE-----\n"
SNP_FORMS: dict[str, Any] = {
    "trustee-fields": {
        "attestation_report": fields(REPORT),
        "cert_chain": [{"cert_type": "VCEK", "data": list(TABLE.vcek)}],
    },
    "trustee-azure-v0": {"quote": {"message": [1]}, "report": list(HCL), "vcek": PEM},
    "trustee-azure-v1": {
        "version": 1,
        "tpm_quote": {"message": "ff54"},
        "hcl_report": b64url(HCL),
        "vcek": b64url(TABLE.vcek),
    },
    "attestation-rs": {
        "platform": "snp",
        "evidence": {"attestation_report": b64(REPORT), "cert_chain": {"vcek": b64(TABLE.vcek)}},
    },
    "configfs-tsm": {
        "provider": "sev_guest",
        "outblob": b64(REPORT),
        "auxblob": b64(CertificateTable(vcek=TABLE.vcek).encode()),
        "generation": 1,
    },
    "wrapped-in-base64": {
        "verification_requests": [
            {"tee": "snp", "evidence": b64(json.dumps({"report": b64(REPORT)}).encode())}
        ]
    },
}
TDX_FORMS: dict[str, Any] = {
    "dstack": {"quote": QUOTE.hex(), "event_log": "[]", "report_data": "00", "vm_config": "{}"},
    "trustee": {"cc_eventlog": b64(b"log"), "quote": b64(QUOTE)},
    "trustee-azure": {"hcl_report": b64url(HCL_OF_A_TD), "td_quote": b64url(QUOTE)},
    "configfs-tsm": {"provider": "tdx_guest", "outblob": "0x" + QUOTE.hex(), "auxblob": ""},
}


@pytest.mark.parametrize("form", SNP_FORMS)
def test_snp_evidence_is_found_and_verified(form: str) -> None:
    evidence = recognise(json.dumps(SNP_FORMS[form], indent=1).encode())
    assert evidence.report == REPORT
    files = [CertificateFile("f", content) for content in (TABLE.vcek, TABLE.ask, TABLE.ark)]
    complete = Pool.read(files, NOW).complete(evidence)
    assert failed(judge(complete, fake_amd.policy(), Expected(REPORT_DATA), NOW)) == []


@pytest.mark.parametrize("form", sorted(SNP_FORMS.keys() - {"wrapped-in-base64"}))
def test_its_certificates_come_along(form: str) -> None:
    evidence = recognise(json.dumps(SNP_FORMS[form]).encode())
    assert CertificateTable.decode(evidence.certificates).vcek in (TABLE.vcek, PEM.encode())


@pytest.mark.parametrize("form", TDX_FORMS)
def test_a_quote_is_found(form: str) -> None:
    evidence = recognise(json.dumps(TDX_FORMS[form]).encode())
    assert evidence == Evidence(Technology.TDX, QUOTE, b"")


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({}, "no report or quote"),
        ({"quote": "00"}, "no report or quote"),
        ({"quote": b64(QUOTE), "report": b64(REPORT)}, "2 reports or quotes"),
        ({"attestation_report": {**fields(REPORT), "chip_id": [0] * 63}}, "not whole"),
        ({"attestation_report": {**fields(REPORT), "policy": -1}}, "not whole"),
        ({"attestation_report": {**fields(REPORT), "signature": 5}}, "not whole"),
    ],
)
def test_json_without_exactly_one_piece_of_evidence_is_rejected(document: Any, why: str) -> None:
    with pytest.raises(AttestationFailed, match=why):
        recognise(json.dumps(document).encode())


def test_json_that_is_cut_short_is_rejected() -> None:
    text = json.dumps(SNP_FORMS["attestation-rs"])
    with pytest.raises(AttestationFailed, match="cut short"):
        recognise(text[:-10].encode())


def test_deep_json_ends_in_our_error() -> None:
    with pytest.raises(AttestationFailed):
        recognise(b'{"evidence":' * 5000)


def test_azures_blob_is_read_for_snp_and_named_for_tdx() -> None:
    assert recognise(HCL) == Evidence(Technology.SEV_SNP, REPORT, b"")
    with pytest.raises(AttestationFailed, match="of a TDX guest"):
        recognise(HCL_OF_A_TD)
    with pytest.raises(AttestationFailed, match="without an SNP report"):
        recognise(HCL[:200])


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.just(b64(REPORT)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["evidence", "quote", "report", "cert_chain", "x"]), inner
        )
    ),
    max_leaves=6,
)


@given(_VALUES)
def test_any_json_ends_in_evidence_or_in_our_error(value: Any) -> None:
    try:
        evidence = recognise(json.dumps({"evidence": value}).encode())
    except AttestationFailed:
        return
    assert evidence.report == REPORT
