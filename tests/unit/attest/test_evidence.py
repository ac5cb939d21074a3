"""Evidence as one string of bytes: what goes in comes out, and nothing else is read."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevfork.attest.evidence import (
    CERTIFICATES_LIMIT_BYTES,
    REPORT_LIMIT_BYTES,
    Evidence,
)
from sevfork.errors import AttestationFailed
from sevfork.technology import Technology

GOOD = Evidence(Technology.SEV_SNP, b"report", b"certificates")


@given(st.sampled_from(Technology), st.binary(max_size=200), st.binary(max_size=200))
def test_decoding_undoes_encoding(technology: Technology, report: bytes, certs: bytes) -> None:
    evidence = Evidence(technology, report, certs)
    assert Evidence.decode(evidence.encode()) == evidence


def test_encoding_is_the_documented_one() -> None:
    assert GOOD.encode() == b"\1\2\0\0" + b"\0\0\0\x06report" + b"\0\0\0\x0ccertificates"


@pytest.mark.parametrize("size", range(len(GOOD.encode())))
def test_truncated_evidence_is_rejected(size: int) -> None:
    with pytest.raises(AttestationFailed):
        Evidence.decode(GOOD.encode()[:size])


def test_trailing_byte_is_rejected() -> None:
    with pytest.raises(AttestationFailed, match="1 bytes trail"):
        Evidence.decode(GOOD.encode() + b"\0")


@pytest.mark.parametrize(
    "head", [b"\0\2\0\0", b"\2\2\0\0", b"\1\0\0\0", b"\1\4\0\0", b"\1\2\1\0", b"\1\2\0\1"]
)
def test_other_versions_technologies_and_reserved_bytes_are_rejected(head: bytes) -> None:
    with pytest.raises(AttestationFailed):
        Evidence.decode(head + GOOD.encode()[4:])


@pytest.mark.parametrize(
    ("report", "certificates"),
    [(REPORT_LIMIT_BYTES + 1, 0), (0, CERTIFICATES_LIMIT_BYTES + 1)],
)
def test_limits_hold_in_both_directions(report: int, certificates: int) -> None:
    Evidence(Technology.TDX, bytes(max(report - 1, 0)), bytes(max(certificates - 1, 0)))
    with pytest.raises(AttestationFailed, match="limit"):
        Evidence(Technology.TDX, bytes(report), bytes(certificates))
    data = b"\1\3\0\0" + report.to_bytes(4, "big") + bytes(report)
    with pytest.raises(AttestationFailed, match="limit"):
        Evidence.decode(data + certificates.to_bytes(4, "big") + bytes(certificates))


@given(st.binary(max_size=64))
def test_no_bytes_end_in_a_traceback(data: bytes) -> None:
    with contextlib.suppress(AttestationFailed):
        assert Evidence.decode(data).encode() == data
