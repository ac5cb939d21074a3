"""Intel's extension of a PCK certificate, which is DER that no library reads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevfork.attest.tdx.pck import OID_SGX, Platform
from sevfork.attest.tdx.quote import Quote
from sevfork.attest.x509 import Chain
from sevfork.errors import AttestationFailed
from tests.support.fake_intel import FakeIntel, der, entry
from tests.support.genuine import sample

GOOD = FakeIntel(svns=tuple(range(16)), pce_svn=300).sgx_extension()


def platform_of(extension: bytes) -> Platform:
    return Platform.decode({OID_SGX: extension})


def reason(extension: bytes) -> str:
    with pytest.raises(AttestationFailed) as caught:
        platform_of(extension)
    return caught.value.message


def test_the_platform_is_read() -> None:
    platform = platform_of(GOOD)
    assert platform == Platform(
        ppid=b"\x11" * 16,
        fmspc=bytes.fromhex("b0c06f000000"),
        pce_id=bytes(2),
        svns=tuple(range(16)),
        pce_svn=300,
    )


def test_the_platform_of_a_genuine_certificate_is_read() -> None:
    pem = Quote.decode(sample("dcap-qvl/tdx_quote")).signature.pck_chain_pem
    platform = Platform.decode(Chain.decode("PCK chain", pem).leaf.extensions)
    assert platform.fmspc.hex() == "b0c06f000000"
    assert platform.svns == (3, 3, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0)
    assert platform.pce_svn == 11


def test_a_certificate_without_the_extension_is_rejected() -> None:
    with pytest.raises(AttestationFailed, match="no SGX extension"):
        Platform.decode({})


def test_every_truncation_is_rejected() -> None:
    for size in range(len(GOOD)):
        assert reason(GOOD[:size])


def test_a_value_that_occurs_twice_is_rejected() -> None:
    fmspc = entry(bytes([4]), der(0x04, bytes(6)))
    assert "occurs twice" in reason(der(0x30, GOOD[4:] + fmspc))


def test_a_missing_value_is_rejected() -> None:
    assert ".2 is missing" in reason(der(0x30, entry(bytes([1]), der(0x04, bytes(16)))))


@pytest.mark.parametrize(("svn", "why"), [(b"\x01\x00", "is 256"), (b"\xf9", "is -7")])
def test_an_svn_outside_a_byte_is_rejected(svn: bytes, why: str) -> None:
    entries = [entry(bytes([2, at]), der(0x02, svn)) for at in range(1, 18)]
    tcb = entry(bytes([2]), der(0x30, b"".join(entries)))
    assert why in reason(der(0x30, tcb))


def test_bytes_after_the_extension_are_rejected() -> None:
    assert "values where one belongs" in reason(GOOD + b"\x05\x00")


def test_an_indefinite_length_is_rejected() -> None:
    assert "not DER" in reason(b"\x30\x80" + GOOD[4:] + b"\0\0")


@given(st.binary(max_size=200))
def test_any_bytes_end_in_our_error(data: bytes) -> None:
    with pytest.raises(AttestationFailed):
        platform_of(data)


@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=4))
def test_a_damaged_extension_parses_or_ends_in_our_error(offset: int, data: bytes) -> None:
    damaged = (GOOD[:offset] + data + GOOD[offset + len(data) :])[: len(GOOD)]
    try:
        platform = platform_of(damaged)
    except AttestationFailed:
        return
    assert len(platform.svns) == 16
