"""Evidence inside JSON, as other tools keep it.

Read are the forms of trustee (plain SNP, TDX, Azure), attestation-rs, dstack's GetQuote and dumps
of configfs-tsm. They differ in names and in how bytes are written (hexadecimal, base64 of either
alphabet, lists of numbers, fields), and agree in one report or quote and, perhaps, certificates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from sevfork.attest.evidence import Evidence
from sevfork.attest.snp.certificates import CertificateTable
from sevfork.errors import AttestationFailed
from sevfork.verifier.encodings import from_text
from sevfork.verifier.snp_fields import looks_like_fields, report_from_fields

Recognise = Callable[[bytes], Evidence]
_EVIDENCE = (
    "attestation_report", "evidence", "hcl_report", "intel_quote", "outblob", "quote", "report",
    "snp_report", "td_quote", "tdx_quote",
)  # fmt: skip
_WRAPPERS = ("data", "evidence", "attestation", "primary_evidence", "verification_requests")
_CERTIFICATES = ("vcek", "vlek", "ask", "ark", "crl")
_MAX_DEPTH = 4


def evidence_from_json(data: bytes, recognise: Recognise) -> Evidence:
    """Raise AttestationFailed unless the document holds exactly one report or quote."""
    try:
        document = msgspec.json.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise AttestationFailed("JSON that is cut short or malformed") from exc
    candidates = list(dict.fromkeys(_candidates(document, recognise, _MAX_DEPTH)))
    if len(candidates) != 1:
        count = f"{len(candidates)} reports or quotes" if candidates else "no report or quote"
        raise AttestationFailed(
            f"JSON with {count}, want one",
            hint="known are the forms of trustee, attestation-rs, dstack and configfs-tsm",
        )
    return candidates[0]


def _candidates(value: object, recognise: Recognise, depth: int) -> Iterator[Evidence]:
    if isinstance(value, list):
        value = dict(enumerate(value)) if depth and len(value) < 16 else {}
    if not isinstance(value, dict) or not depth:
        return
    for name in _EVIDENCE:
        report = _octets(value.get(name))
        if report is not None:
            yield from _recognised(report, value, recognise)
    for name, inner in value.items():
        if name in _WRAPPERS or name in _EVIDENCE or isinstance(name, int):
            yield from _candidates(inner, recognise, depth - 1)


def _recognised(report: bytes, beside: dict[str, Any], recognise: Recognise) -> Iterator[Evidence]:
    """What is no evidence is passed over: Azure's for TDX has a TDREPORT beside the quote."""
    try:
        evidence = recognise(report)
    except AttestationFailed:
        return
    certificates = evidence.certificates or _certificates(beside)
    yield Evidence(evidence.technology, evidence.report, certificates)


def _octets(value: object) -> bytes | None:
    """Bytes in any of the ways in which they are written; None for what is none."""
    if isinstance(value, str):
        return from_text(value)
    if isinstance(value, list) and value and all(isinstance(n, int) for n in value):
        return bytes(value) if all(0 <= n < 256 for n in value) else None
    if looks_like_fields(value):
        return report_from_fields(value)  # type: ignore[arg-type]  # looked at just now
    return None


def _certificates(beside: dict[str, Any]) -> bytes:
    """The certificate table that stands beside a report, whole or one by one."""
    table = _octets(beside.get("auxblob"))
    if table:
        return table
    chain = beside.get("cert_chain", beside.get("certs"))
    named = dict(beside)
    if isinstance(chain, dict):
        named |= chain
    elif isinstance(chain, list):
        entries = [entry for entry in chain if isinstance(entry, dict)]
        named |= {str(entry.get("cert_type")).lower(): entry.get("data") for entry in entries}
    slots = {name: _octets(named.get(name)) or b"" for name in _CERTIFICATES}
    return CertificateTable(**slots).encode()
