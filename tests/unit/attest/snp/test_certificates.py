"""The certificate table and AMD's extensions: read exactly, or refused with our error."""

from __future__ import annotations

import contextlib
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sevfork.attest.snp.certificates import (
    OID_HWID,
    OID_PRODUCT,
    OID_TCB,
    CertificateTable,
    Endorsement,
    ReportSigner,
)
from sevfork.attest.snp.report import SigningKey, Tcb
from sevfork.attest.x509 import Certificate, RevocationList
from sevfork.errors import AttestationFailed
from sevfork.simulated.processor import endorsement_extensions, issue_endorsement
from tests.support.fake_amd import Part, authority, der, ec_key, revocation_list, rsa_key

VCEK_GUID = UUID("63da758d-e664-4564-adc5-f4b93be8accd").bytes
ENTRIES = ("vcek", "vlek", "ask", "ark", "crl")
CONTENT = st.binary(min_size=1, max_size=40)


def entry(guid: bytes, offset: int, size: int) -> bytes:
    return guid + offset.to_bytes(4, "little") + size.to_bytes(4, "little")


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(ENTRIES, CONTENT)))
def test_decoding_undoes_encoding(contents: dict[str, bytes]) -> None:
    table = CertificateTable(**contents)
    assert CertificateTable.decode(table.encode()) == table


def test_nothing_at_all_is_an_empty_table() -> None:
    assert CertificateTable.decode(b"") == CertificateTable()
    assert CertificateTable().encode() == b""


def test_guids_are_read_in_either_byte_order() -> None:
    swapped = UUID(bytes=VCEK_GUID).bytes_le
    data = entry(swapped, 48, 3) + bytes(24) + b"abc"
    assert CertificateTable.decode(data) == CertificateTable(vcek=b"abc")
    both = entry(VCEK_GUID, 72, 3) + entry(swapped, 72, 3) + bytes(24) + b"abc"
    with pytest.raises(AttestationFailed, match="doubled"):
        CertificateTable.decode(both)


def test_no_words_of_a_library_are_in_the_error() -> None:
    """cryptography's for a bad PEM block are a link to a web page."""
    with pytest.raises(AttestationFailed) as caught:
        Certificate.decode(b"-----BEGIN CERTIFICATE-----\nAA=A\n-----END CERTIFICATE-----\n")
    assert caught.value.message == "a certificate is malformed"


def test_foreign_entries_and_padding_are_passed_over() -> None:
    data = entry(b"\xee" * 16, 72, 2) + entry(VCEK_GUID, 74, 3) + bytes(24) + b"xxabc" + bytes(4000)
    assert CertificateTable.decode(data) == CertificateTable(vcek=b"abc")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(entry(VCEK_GUID, 48, 4) + bytes(24) + b"abc", id="beyond_the_end"),
        pytest.param(entry(VCEK_GUID, 2**32 - 1, 2**32 - 1) + bytes(24), id="huge"),
        pytest.param(entry(VCEK_GUID, 0, 24) + bytes(24), id="inside_the_header"),
        pytest.param(entry(VCEK_GUID, 48, 0) + bytes(24), id="empty"),
        pytest.param(entry(VCEK_GUID, 72, 3) * 2 + bytes(24) + b"abc", id="doubled"),
        pytest.param(entry(VCEK_GUID, 24, 3) + b"abc", id="without_an_end"),
        pytest.param(b"\0", id="shorter_than_an_entry"),
    ],
)
def test_malformed_table_is_rejected(data: bytes) -> None:
    with pytest.raises(AttestationFailed, match="certificate table"):
        CertificateTable.decode(data)


@given(st.binary(max_size=200))
def test_no_bytes_end_in_a_traceback_as_a_table(data: bytes) -> None:
    with contextlib.suppress(AttestationFailed):
        CertificateTable.decode(data)


@given(st.binary(max_size=200))
def test_no_bytes_end_in_a_traceback_as_a_certificate_or_list(data: bytes) -> None:
    for parse in (Certificate.decode, RevocationList.decode):
        with contextlib.suppress(AttestationFailed):
            parse(data)


@given(st.integers(min_value=0), st.binary(min_size=1, max_size=8))
def test_no_changed_certificate_ends_in_a_traceback(place: int, value: bytes) -> None:
    good = LEAF
    place %= len(good)
    changed = good[:place] + value + good[place + len(value) :]
    with contextlib.suppress(AttestationFailed):
        Endorsement.decode(Certificate.decode(changed).extensions)


@given(st.integers(min_value=0), st.binary(min_size=1, max_size=8))
def test_no_changed_revocation_list_ends_in_a_traceback(place: int, value: bytes) -> None:
    place %= len(CRL)
    changed = CRL[:place] + value + CRL[place + len(value) :]
    with contextlib.suppress(AttestationFailed):
        RevocationList.decode(changed)


def leaf(**changes: bytes | None) -> bytes:
    """A VCEK with some of AMD's extensions changed, or left out (None)."""
    extensions = endorsement_extensions("Milan-B0", Tcb(4, 0, 24, 219), b"\xc1" * 64)
    names = {"product": OID_PRODUCT, "hardware_id": OID_HWID, **OID_TCB}
    for name, value in changes.items():
        extensions.pop(names[name], None)
        if value is not None:
            extensions[names[name]] = value
    ask = authority("SEV-Milan", "ARK-Milan", "ARK")
    key = ec_key("leaf").public_key()
    return der(issue_endorsement("SEV-VCEK", key, ask.subject, rsa_key("ASK"), extensions))


def test_extensions_are_read() -> None:
    endorsement = Endorsement.decode(Certificate.decode(leaf()).extensions)
    assert endorsement.product_name == "Milan-B0"
    assert endorsement.tcb == Tcb(4, 0, 24, 219)
    assert endorsement.hardware_id == b"\xc1" * 64


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"microcode": None}, id="a_tcb_component_is_absent"),
        pytest.param({"microcode": b"\x02\x01\xff"}, id="negative"),
        pytest.param({"microcode": b"\x02\x02\x01\x00"}, id="256"),
        pytest.param({"microcode": b"\x02\x03\x00\x00\x01"}, id="three_bytes"),
        pytest.param({"microcode": b"\x02\x00"}, id="no_digits"),
        pytest.param({"microcode": b"\x02\x01\x01\x00"}, id="trailing"),
        pytest.param({"microcode": b"\x04\x01\x01"}, id="another_type"),
        pytest.param({"microcode": b""}, id="empty"),
        pytest.param({"product": b"\x0c\x05Milan"}, id="product_as_utf8"),
        pytest.param({"product": b"\x16\x05Mil\xe4n"}, id="product_not_ascii"),
        pytest.param({"product": b"\x16\x81\x05Milan"}, id="length_in_the_long_form"),
        pytest.param({"hardware_id": b"\xc1" * 63}, id="hardware_id_of_63_bytes"),
    ],
)
def test_malformed_extension_is_rejected(changes: dict[str, bytes | None]) -> None:
    certificate = Certificate.decode(leaf(**changes))
    with pytest.raises(AttestationFailed):
        Endorsement.decode(certificate.extensions)


def test_pem_and_der_are_read_alike() -> None:
    ask = authority("SEV-Milan", "ARK-Milan", "ARK")
    assert Certificate.decode(ask.public_bytes(Encoding.PEM)) == Certificate.decode(der(ask))


def test_two_certificates_where_one_belongs_are_rejected() -> None:
    pem = authority("SEV-Milan", "ARK-Milan", "ARK").public_bytes(Encoding.PEM)
    with pytest.raises(AttestationFailed, match="want one certificate, got 2"):
        Certificate.decode(pem * 2)


def test_authority_in_the_leafs_place_is_rejected() -> None:
    table = Part().certificates()
    with pytest.raises(AttestationFailed, match="says nothing of a chip"):
        ReportSigner.decode(replace(table, vcek=table.ask), SigningKey.VCEK)


LEAF = Part().certificates().vcek
CRL = revocation_list(revoked=(1, 2, 3))
