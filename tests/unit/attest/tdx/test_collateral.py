"""Collateral as a file: parsing that ends in our error; what revocation lists and chains say."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevfork.attest.tdx.chain import PCK_CHAIN, TCB_SIGNING_CHAIN
from sevfork.attest.tdx.collateral import (
    Collateral,
    SignedJson,
)
from sevfork.attest.tdx.tcb import TcbStatus, converge, since_launch
from sevfork.attest.x509 import Certificate, Chain, RevocationList, Scheme
from sevfork.errors import AttestationFailed
from sevfork.verifier.pcs import document_from_answer
from tests.support.fake_intel import NOW, PLATFORM_CA, FakeIntel, crl
from tests.support.genuine import sample

INTEL = FakeIntel()
FILE = INTEL.collateral().encode()
OPTIONAL = {"pck_crl_issuer_chain", "pck_certificate_chain"}
TCB_INFO = INTEL.collateral().tcb_info
CRL = crl(PLATFORM_CA, (77,), NOW, datetime(2026, 4, 1, tzinfo=UTC))


def reason(data: bytes) -> str:
    with pytest.raises(AttestationFailed) as caught:
        Collateral.decode(data)
    return caught.value.message


def with_field(name: str, value: Any) -> bytes:
    return json.dumps({**json.loads(FILE), name: value}).encode()


def text_of(document: dict[str, Any]) -> SignedJson:
    return SignedJson("TCB info", json.dumps(document).encode(), bytes(64), b"")


@pytest.mark.parametrize("name", sorted(json.loads(FILE).keys() - OPTIONAL))
def test_every_part_has_to_be_there(name: str) -> None:
    parts = json.loads(FILE)
    del parts[name]
    assert name in reason(json.dumps(parts).encode())


def test_an_unknown_part_is_passed_over() -> None:
    """Or a tool that writes one more field would hide what the signed ones say."""
    assert Collateral.decode(with_field("extra", "")) == Collateral.decode(FILE)


def test_a_collateral_file_larger_than_evidence_may_carry_is_rejected() -> None:
    assert "more than 65536" in reason(FILE + b" " * 65536)


@pytest.mark.parametrize("value", ["", "zz" * 64, "00" * 63, "00" * 65, " 0" * 64, "0 " * 64])
def test_a_signature_that_is_not_64_bytes_of_hex_is_rejected(value: str) -> None:
    assert "TCB info's signature" in reason(with_field("tcb_info_signature", value))


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"[" * 60000, b'{"tcb_info":' * 5000, b'{"tcb_info":"\\ud800"}']
)
def test_json_of_another_shape_is_rejected(data: bytes) -> None:
    assert "collateral is malformed" in reason(data)


@given(st.binary(max_size=300))
def test_any_bytes_end_in_our_error(data: bytes) -> None:
    with pytest.raises(AttestationFailed):
        Collateral.decode(data)


@given(st.integers(0, len(FILE) - 1), st.binary(min_size=1, max_size=4))
def test_a_damaged_file_parses_or_ends_in_our_error(offset: int, data: bytes) -> None:
    damaged = FILE[:offset] + data + FILE[offset + len(data) :]
    try:
        collateral = Collateral.decode(damaged)
    except AttestationFailed:
        return
    assert len(collateral.tcb_info.signature) == 64


@given(st.integers(0, len(TCB_INFO.text) - 1), st.binary(min_size=1, max_size=4))
def test_a_damaged_document_parses_or_ends_in_our_error(offset: int, data: bytes) -> None:
    text = TCB_INFO.text[:offset] + data + TCB_INFO.text[offset + len(data) :]
    try:
        document = SignedJson("TCB info", text, bytes(64), b"").as_tcb_info()
    except AttestationFailed:
        return
    assert document.id == "TDX"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)


@given(st.sampled_from(sorted(INTEL.tcb_info())), _JSON)
def test_a_field_of_another_kind_parses_or_ends_in_our_error(name: str, value: Any) -> None:
    try:
        document = text_of({**INTEL.tcb_info(), name: value}).as_tcb_info()
    except AttestationFailed:
        return
    assert document.version == 3


@given(st.sampled_from(sorted(INTEL.qe_identity())), _JSON)
def test_a_field_of_the_identity_of_another_kind_too(name: str, value: Any) -> None:
    try:
        document = text_of({**INTEL.qe_identity(), name: value}).as_qe_identity()
    except AttestationFailed:
        return
    assert document.version == 2


def test_a_level_with_15_components_is_rejected() -> None:
    levels = INTEL.tcb_info()["tcbLevels"]
    del levels[0]["tcb"]["tdxtcbcomponents"][3]
    with pytest.raises(AttestationFailed, match=r"\$\.tcbLevels\[0\]\.tcb\.tdxtcbcomponents"):
        text_of({**INTEL.tcb_info(), "tcbLevels": levels}).as_tcb_info()


def test_a_time_without_a_zone_is_rejected() -> None:
    with pytest.raises(AttestationFailed, match=r"\$\.nextUpdate"):
        text_of({**INTEL.tcb_info(), "nextUpdate": "2026-03-22T10:00:00"}).as_tcb_info()


def test_a_response_of_the_service_keeps_the_exact_text() -> None:
    text = b'{"tcbInfo": {"id" :"TDX",  "version":3 }, "signature":"' + b"ab" * 64 + b'"}'
    assert document_from_answer(text, b"").text == b'{"id" :"TDX",  "version":3 }'


def test_genuine_responses_are_signed_by_intel() -> None:
    chain = Collateral.decode(sample("dcap-qvl/tdx_quote_collateral.json")).tcb_info.issuer_chain
    for name in ("sample_tcbInfo_response", "sample_tcbinfo_response_v5"):
        signed = document_from_answer(sample(f"go-tdx-guest/{name}"), chain)
        signed.verify()
        assert signed.as_tcb_info().id == "TDX"


# revocation lists and chains


@given(st.integers(0, len(CRL) - 1), st.binary(min_size=1, max_size=4))
def test_a_damaged_revocation_list_is_rejected(offset: int, data: bytes) -> None:
    damaged = (CRL[:offset] + data + CRL[offset + len(data) :])[: len(CRL)]
    try:
        revoked = RevocationList.decode(damaged)
        revoked.verify(Certificate.decode(INTEL.platform_ca.pem), Scheme.INTEL)
    except AttestationFailed:
        return
    assert revoked.names(Certificate.decode(INTEL.pck.pem))


@given(st.binary(max_size=200))
def test_any_bytes_as_a_revocation_list_end_in_our_error(data: bytes) -> None:
    with pytest.raises(AttestationFailed):
        RevocationList.decode(data)


CHAIN = INTEL.pck_chain()


@given(st.integers(0, len(CHAIN) - 1), st.binary(min_size=1, max_size=4))
def test_a_damaged_chain_verifies_or_ends_in_our_error(offset: int, data: bytes) -> None:
    damaged = CHAIN[:offset] + data + CHAIN[offset + len(data) :]
    try:
        chain = Chain.decode("chain", damaged)
        chain.verify(PCK_CHAIN, Scheme.INTEL)
        assert chain.validity.start < NOW
    except AttestationFailed:
        return
    assert chain.leaf.key == Chain.decode("chain", CHAIN).leaf.key


def test_a_certificate_with_an_unknown_version_ends_in_our_error() -> None:
    """Found by flipping every bit of a genuine quote: this is no ValueError in cryptography."""
    der = INTEL.root_der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x0a", 1)
    assert der != INTEL.root_der
    with pytest.raises(AttestationFailed, match="malformed"):
        Chain.decode("chain", _pem(der))


def _pem(der: bytes) -> bytes:
    return (
        b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
    )


def test_a_chain_of_too_many_certificates_is_rejected() -> None:
    chain = Chain.decode("chain", CHAIN + CHAIN)
    with pytest.raises(AttestationFailed, match="6 certificates, not 3"):
        chain.verify(PCK_CHAIN, Scheme.INTEL)


def test_a_pck_chain_is_no_tcb_signing_chain() -> None:
    with pytest.raises(AttestationFailed):
        Chain.decode("chain", CHAIN).verify(TCB_SIGNING_CHAIN, Scheme.INTEL)


# converging statuses


@given(st.lists(st.sampled_from(TcbStatus), min_size=1, max_size=4))
def test_converging_never_makes_anything_better(statuses: list[TcbStatus]) -> None:
    whole = converge(statuses)
    for status in statuses:
        missing = status.needs - whole.needs
        assert not missing or whole is TcbStatus.REVOKED or missing <= {"hardening", "relaunch"}
        assert whole is not TcbStatus.UP_TO_DATE or status is TcbStatus.UP_TO_DATE


@given(st.sampled_from(TcbStatus), st.sampled_from(TcbStatus))
def test_only_an_up_to_date_launch_is_up_to_date(launch: TcbStatus, now: TcbStatus) -> None:
    if since_launch(launch, now) is TcbStatus.UP_TO_DATE:
        assert launch is TcbStatus.UP_TO_DATE
