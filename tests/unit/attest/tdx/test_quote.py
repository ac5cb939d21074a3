"""Quotes as bytes: what is where, and that nothing else gets through."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevfork.attest.tdx.quote import Quote
from sevfork.errors import AttestationFailed
from tests.support.fake_intel import FakeIntel
from tests.support.genuine import sample
from tests.support.tdx_samples import GENUINE

QUOTE_4 = FakeIntel().quote()
QUOTE_5 = FakeIntel(version=5, body_type=3).quote()


def changed(quote: bytes, offset: int, data: bytes) -> bytes:
    return quote[:offset] + data + quote[offset + len(data) :]


def reason(quote: bytes) -> str:
    with pytest.raises(AttestationFailed) as caught:
        Quote.decode(quote)
    return caught.value.message


def test_every_field_of_a_version_4_quote_is_where_intel_puts_it() -> None:
    values = {f"rtmr{index}": bytes([index + 1]) * 48 for index in range(4)}
    values |= {"mrtd": b"\xa1" * 48, "mrseam": b"\xa2" * 48, "mrconfigid": b"\xa3" * 48}
    values |= {"mrowner": b"\xa4" * 48, "mrownerconfig": b"\xa5" * 48, "report_data": b"\xa6" * 64}
    quote = FakeIntel(td=values).quote()
    report = Quote.decode(quote).td_report
    offsets = {"mrtd": 136, "mrseam": 16, "mrconfigid": 184, "mrowner": 232, "mrownerconfig": 280}
    offsets |= {"rtmr0": 328, "rtmr1": 376, "rtmr2": 424, "rtmr3": 472, "report_data": 520}
    for name, offset in offsets.items():
        value = getattr(report, name)
        assert value == values[name] == quote[48 + offset : 48 + offset + len(value)]
    assert report.mrservicetd is None


def test_version_5_with_body_type_2_has_the_body_of_version_4() -> None:
    parsed = Quote.decode(FakeIntel(version=5, body_type=2).quote())
    assert parsed.td_report == Quote.decode(QUOTE_4).td_report
    assert len(parsed.signed) == 48 + 6 + 584


def test_body_type_3_has_two_fields_more() -> None:
    td = {"tee_tcb_svn2": b"\x09" * 16, "mrservicetd": b"\x0a" * 48}
    report = Quote.decode(FakeIntel(version=5, body_type=3, td=td).quote()).td_report
    assert (report.tee_tcb_svn2, report.mrservicetd) == (b"\x09" * 16, b"\x0a" * 48)


@pytest.mark.parametrize("quote", [QUOTE_4, QUOTE_5], ids=["v4", "v5"])
def test_trailing_bytes_are_counted_and_not_parsed(quote: bytes) -> None:
    longer = Quote.decode(quote + b"anything at all")
    assert longer.trailing_bytes == 15
    assert longer.signature == Quote.decode(quote).signature


@pytest.mark.parametrize("quote", [QUOTE_4, QUOTE_5], ids=["v4", "v5"])
def test_every_truncation_is_rejected(quote: bytes) -> None:
    for size in range(len(quote)):
        with pytest.raises(AttestationFailed):
            Quote.decode(quote[:size])


@pytest.mark.parametrize(
    ("offset", "data", "why"),
    [
        (0, b"\x06\x00", "version is 6, not 4 or 5"),
        (0, b"\x03\x00", "a quote of an SGX enclave"),
        (2, b"\x03\x00", "attestation key is on P-384"),
        (2, b"\x04\x00", "attestation key type is 4"),
        (4, b"\x00", "a quote of an SGX enclave"),
        (4, b"\x02", "TEE type is 0x2"),
        (8, b"\x01", "reserved bytes"),
        (12, b"\x00", "QE vendor"),
    ],
    ids=["version", "sgx-v3", "p384", "key-type", "sgx-v4", "tee", "reserved", "vendor"],
)
def test_a_foreign_header_is_rejected(offset: int, data: bytes, why: str) -> None:
    assert why in reason(changed(QUOTE_4, offset, data))


@pytest.mark.parametrize(("body_type", "size"), [(1, 384), (2, 648), (3, 584), (4, 584)])
def test_a_body_type_that_is_no_td_report_is_rejected(body_type: int, size: int) -> None:
    descriptor = struct.pack("<HI", body_type, size)
    assert f"body type {body_type}" in reason(changed(QUOTE_5, 48, descriptor))


def test_lengths_inside_the_signature_data_are_exact() -> None:
    (size,) = struct.unpack_from("<I", QUOTE_4, 632)
    assert "1 bytes trail" in reason(changed(QUOTE_4, 632, struct.pack("<I", size + 1)) + b"\0")
    assert "early" in reason(changed(QUOTE_4, 632, struct.pack("<I", size - 1)))
    assert "early" in reason(changed(QUOTE_4, 632, b"\xff\xff\xff\xff"))


def test_other_kinds_of_certification_data_are_rejected() -> None:
    assert "type 5, not 6" in reason(changed(QUOTE_4, 636 + 128, struct.pack("<H", 5)))
    inner = 636 + 128 + 6 + 384 + 64 + 2 + 32
    assert "type 3, not 5" in reason(changed(QUOTE_4, inner, struct.pack("<H", 3)))


def test_a_quote_larger_than_an_evidence_frame_is_rejected() -> None:
    assert "more than 16384" in reason(QUOTE_4 + bytes(16384))


@given(st.binary(max_size=700) | st.binary(max_size=900).map(lambda data: QUOTE_4[:636] + data))
def test_any_bytes_end_in_our_error(data: bytes) -> None:
    with pytest.raises(AttestationFailed):
        Quote.decode(data)


@given(st.integers(0, len(QUOTE_5) - 1), st.binary(min_size=1, max_size=8))
def test_a_damaged_quote_parses_or_ends_in_our_error(offset: int, data: bytes) -> None:
    try:
        quote = Quote.decode(changed(QUOTE_5, offset, data)[: len(QUOTE_5)])
    except AttestationFailed:
        return
    assert len(quote.td_report.report_data) == 64


@pytest.mark.parametrize("name", GENUINE)
def test_genuine_quotes_parse(name: str) -> None:
    data = sample(name)
    quote = Quote.decode(data)
    assert quote.version == data[0]
    assert quote.td_report.mrsignerseam == bytes(48)
    assert quote.signature.qe_report.isv_prod_id == 2


def test_genuine_quotes_come_with_and_without_padding() -> None:
    assert [Quote.decode(sample(name)).trailing_bytes for name in GENUINE] == [70, 0, 0, 0]


def test_the_genuine_quote_with_a_service_td_says_so() -> None:
    report = Quote.decode(sample("trustee/tdx/tdx_quote_5.dat")).td_report
    assert report.mrservicetd not in (None, bytes(48))
