"""What evidence a file holds. The file is the attacker's: what cannot be read is rejected."""

from __future__ import annotations

from sevfork.attest.evidence import Evidence
from sevfork.attest.snp.report import REPORT_SIZE
from sevfork.attest.tdx.quote import INTEL_VENDOR_ID, TEE_TYPE_TDX
from sevfork.errors import AttestationFailed
from sevfork.technology import Technology
from sevfork.verifier.encodings import octets
from sevfork.verifier.json_evidence import evidence_from_json

EVIDENCE_LIMIT_BYTES = 1 << 20
# Azure's paravisor keeps this in the vTPM (NV index 0x01400001): header, hardware report, claims.
_HCL_MAGIC, _HCL_HEADER_SIZE = b"HCLA", 32
_TDREPORT = 0x81
_NEWEST_IMAGINABLE_VERSION = 15


def recognise(data: bytes) -> Evidence:
    """An SNP report, a TDX quote, or what holds one; raise AttestationFailed for anything else.

    Raw, as text (hexadecimal, base64, dumps), as JSON of other tools, as Azure's vTPM blob, or as
    sevfork's own container. Behind an SNP report its certificate table may stand, as extended
    reports of other tools have it.
    """
    data = octets(data)
    if data.lstrip()[:1] in (b"{", b"["):
        return evidence_from_json(data, recognise)
    if data.startswith(_HCL_MAGIC):
        return _from_azure(data)
    if _is_quote(data):
        return Evidence(Technology.TDX, data, b"")
    if data[:1] == b"\1":
        return Evidence.decode(data)
    if _is_snp_report(data):
        return Evidence(Technology.SEV_SNP, data[:REPORT_SIZE], data[REPORT_SIZE:])
    raise AttestationFailed(
        f"{len(data)} bytes that are no evidence",
        hint="want an SNP report (1184 bytes), a TDX quote (v4, v5) or what 'sevfork attest' saved",
    )


def _is_quote(data: bytes) -> bool:
    """Intel's, of whatever kind and version: the parser says which it does not take, and why."""
    tdx = data[4:8] == TEE_TYPE_TDX.to_bytes(4, "little") and data[0:1] in (b"\4", b"\5")
    return tdx or data[12:28] == INTEL_VENDOR_ID


def _is_snp_report(data: bytes) -> bool:
    version, algorithm = (int.from_bytes(data[at : at + 4], "little") for at in (0, 0x34))
    if len(data) < REPORT_SIZE:
        return False
    return data[0] in range(2, 6) or (version <= _NEWEST_IMAGINABLE_VERSION and algorithm == 1)


def _from_azure(data: bytes) -> Evidence:
    report = data[_HCL_HEADER_SIZE : _HCL_HEADER_SIZE + REPORT_SIZE]
    if report[:1] == bytes([_TDREPORT]):
        raise AttestationFailed(
            "an Azure vTPM blob of a TDX guest: its TDREPORT can only be checked on that machine",
            hint="give the quote that Azure's metadata service makes of it",
        )
    if not _is_snp_report(report):
        raise AttestationFailed("an Azure vTPM blob without an SNP report in it")
    return Evidence(Technology.SEV_SNP, report, b"")
