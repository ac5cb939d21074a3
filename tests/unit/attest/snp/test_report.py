"""The report's parser: every field where the ABI puts it, and nothing that the ABI forbids."""

from __future__ import annotations

import contextlib
import secrets
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevfork.attest.snp.report import (
    REPORT_SIZE,
    Cpuid,
    FirmwareVersion,
    Product,
    SigningKey,
    SnpReport,
    Tcb,
)
from sevfork.errors import AttestationFailed
from tests.support.fake_amd import Part


def changed(report: bytes, offset: int, value: bytes) -> bytes:
    return report[:offset] + value + report[offset + len(value) :]


def test_every_field_is_where_the_abi_puts_it() -> None:
    body = bytearray(Part(version=5).report())
    values = {0x10: 16, 0x20: 16, 0x50: 64, 0x90: 48, 0xC0: 32, 0xE0: 48, 0x110: 48, 0x140: 32}
    values |= {0x160: 32, 0x38: 8, 0x180: 8, 0x1A0: 64, 0x1E0: 8, 0x1F0: 8}
    random = {offset: secrets.token_bytes(size) for offset, size in values.items()}
    for offset, value in random.items():
        body[offset : offset + len(value)] = value
    struct.pack_into("<I", body, 0x04, 7)
    struct.pack_into("<I", body, 0x30, 3)
    struct.pack_into("<Q", body, 0x40, 0x25)
    struct.pack_into("<I", body, 0x48, 0b0111)
    body[0x188:0x18B] = bytes([0x1A, 0x02, 0x01])
    body[0x1E8:0x1F0] = bytes([5, 57, 1, 0, 4, 56, 1, 0])
    struct.pack_into("<QQ", body, 0x1F8, 1, 3)
    report = SnpReport.decode(bytes(body))
    assert (report.version, report.guest_svn, report.vmpl) == (5, 7, 3)
    assert (report.policy, report.policy_abi, report.platform_info) == (0x30000, (0, 0), 0x25)
    assert (report.author_key_enabled, report.key_masked) == (True, True)
    assert report.signing_key is SigningKey.VLEK
    names = [
        "family_id", "image_id", "report_data", "measurement", "host_data", "id_key_digest",
        "author_key_digest", "report_id", "report_id_ma", "current_tcb", "reported_tcb", "chip_id",
        "committed_tcb", "launch_tcb",
    ]  # fmt: skip
    assert [getattr(report, name) for name in names] == list(random.values())
    assert (report.cpuid, report.product) == (Cpuid(0x1A, 2, 1), Product.TURIN)
    assert report.current_firmware == FirmwareVersion(1, 57, 5)
    assert report.committed_firmware == FirmwareVersion(1, 56, 4)
    assert (report.launch_mitigations, report.current_mitigations) == (1, 3)
    assert report.signed_bytes == bytes(body[:0x2A0])


def test_policy_names_the_lowest_abi() -> None:
    report = SnpReport.decode(changed(Part().report(), 0x08, bytes([55, 1])))
    assert report.policy_abi == (1, 55)


def test_truncated_report_is_rejected() -> None:
    for size in range(REPORT_SIZE):
        with pytest.raises(AttestationFailed, match=f"{size} bytes, want 1184"):
            SnpReport.decode(GOOD[:size])


def test_report_with_a_byte_behind_it_is_rejected() -> None:
    with pytest.raises(AttestationFailed, match="1185 bytes"):
        SnpReport.decode(GOOD + b"\0")


@pytest.mark.parametrize("version", [0, 1, 6, 255, 2**31])
def test_unknown_version_is_rejected(version: int) -> None:
    with pytest.raises(AttestationFailed, match=f"version {version}"):
        SnpReport.decode(changed(GOOD, 0, version.to_bytes(4, "little")))


RESERVED = {
    2: [(0x4C, 4), (0x188, 24), (0x1EB, 1), (0x1EF, 1), (0x1F8, 168), (0x330, 368)],
    3: [(0x4C, 4), (0x18B, 21), (0x1EB, 1), (0x1EF, 1), (0x1F8, 168), (0x330, 368)],
    4: [(0x4C, 4), (0x18B, 21), (0x1EB, 1), (0x1EF, 1), (0x1F8, 168), (0x330, 368)],
    5: [(0x4C, 4), (0x18B, 21), (0x1EB, 1), (0x1EF, 1), (0x208, 152), (0x330, 368)],
}


@pytest.mark.parametrize("version", RESERVED)
def test_each_reserved_byte_has_to_be_zero(version: int) -> None:
    good = Part(version=version).report()
    SnpReport.decode(good)
    for start, size in RESERVED[version]:
        for offset in range(start, start + size):
            with pytest.raises(AttestationFailed, match="reserved"):
                SnpReport.decode(changed(good, offset, b"\1"))


@pytest.mark.parametrize("bit", [*range(26, 64), 17])
def test_reserved_policy_bits_are_rejected(bit: int) -> None:
    policy = (0x30000 ^ 1 << bit).to_bytes(8, "little")
    with pytest.raises(AttestationFailed, match="guest policy"):
        SnpReport.decode(changed(GOOD, 0x08, policy))


@pytest.mark.parametrize(
    "flags", [*(key << 2 for key in range(2, 7)), *(1 << b for b in range(5, 32))]
)
def test_unknown_signing_keys_and_flags_are_rejected(flags: int) -> None:
    with pytest.raises(AttestationFailed, match="flags"):
        SnpReport.decode(changed(GOOD, 0x48, flags.to_bytes(4, "little")))


def test_other_signature_algorithms_are_rejected() -> None:
    with pytest.raises(AttestationFailed, match="algorithm"):
        SnpReport.decode(changed(GOOD, 0x34, b"\2"))


@pytest.mark.parametrize("offset", [0x2A0 + 48, 0x2A0 + 71, 0x2E8 + 48, 0x2E8 + 71])
def test_signature_numbers_longer_than_p384_are_rejected(offset: int) -> None:
    with pytest.raises(AttestationFailed, match="signature"):
        SnpReport.decode(changed(GOOD, offset, b"\1"))


@pytest.mark.parametrize(
    ("cpuid", "product"),
    [
        ((0x19, 0x00), Product.MILAN),
        ((0x19, 0x0F), Product.MILAN),
        ((0x19, 0x10), Product.GENOA),
        ((0x19, 0x1F), Product.GENOA),
        ((0x19, 0xA0), Product.GENOA),
        ((0x19, 0xAF), Product.GENOA),
        ((0x1A, 0x00), Product.TURIN),
        ((0x1A, 0x11), Product.TURIN),
        ((0x1A, 0x1F), Product.TURIN),
        ((0x00, 0x00), Product.SIMULATED),
    ],
)
def test_product_by_cpuid(cpuid: tuple[int, int], product: Product) -> None:
    assert Cpuid(*cpuid, stepping=1).product is product


@pytest.mark.parametrize(
    "cpuid", [(0x17, 0x01), (0x19, 0x20), (0x19, 0x9F), (0x19, 0xB0), (0x1A, 0x20), (0, 1)]
)
def test_other_processors_are_unknown(cpuid: tuple[int, int]) -> None:
    with pytest.raises(AttestationFailed, match="does not know: family .* stepping 1"):
        _ = Cpuid(*cpuid, stepping=1).product


@pytest.mark.parametrize(
    ("cpuid", "words"),
    [
        ((0x19, 0x01, 1), "Milan (family 19h, model 01h, stepping 1)"),
        ((0x19, 0xA0, 2), "Bergamo or Siena (family 19h, model A0h, stepping 2)"),
        ((0x1A, 0x11, 0), "Turin dense (family 1Ah, model 11h, stepping 0)"),
        ((0x1A, 0x50, 0), "family 1Ah, model 50h, stepping 0"),
    ],
)
def test_a_processor_is_named_in_words(cpuid: tuple[int, int, int], words: str) -> None:
    assert str(Cpuid(*cpuid)) == words


def test_a_report_newer_than_sevfork_is_named_as_that() -> None:
    with pytest.raises(AttestationFailed, match="version 6 is newer than sevfork knows"):
        SnpReport.decode(changed(GOOD, 0, b"\6"))


def test_tcb_layouts() -> None:
    assert Tcb.decode(bytes([1, 2, 0, 0, 0, 0, 3, 4]), Product.MILAN) == Tcb(1, 2, 3, 4)
    assert Tcb.decode(bytes([1, 2, 0, 0, 0, 0, 3, 4]), Product.GENOA) == Tcb(1, 2, 3, 4)
    assert Tcb.decode(bytes([9, 1, 2, 3, 0, 0, 0, 4]), Product.TURIN) == Tcb(1, 2, 3, 4, 9)


@given(st.tuples(*[st.integers(0, 255)] * 4), st.none() | st.integers(0, 255))
def test_tcb_survives_its_encoding(numbers: tuple[int, int, int, int], fmc: int | None) -> None:
    tcb = Tcb(*numbers, fmc)
    product = Product.MILAN if fmc is None else Product.TURIN
    assert Tcb.decode(tcb.encode(), product) == tcb


@given(st.tuples(*[st.integers(0, 255)] * 4), st.tuples(*[st.integers(0, 255)] * 4))
def test_tcb_covers_another_only_in_every_component(
    mine: tuple[int, int, int, int], other: tuple[int, int, int, int]
) -> None:
    expected = all(a >= b for a, b in zip(mine, other, strict=True))
    assert Tcb(*mine).covers(Tcb(*other)) is expected


def test_tcbs_of_different_generations_do_not_compare() -> None:
    assert not Tcb(9, 9, 9, 9).covers(Tcb(0, 0, 0, 0, 0))
    assert not Tcb(9, 9, 9, 9, 9).covers(Tcb(0, 0, 0, 0))


@given(st.binary(max_size=REPORT_SIZE + 8) | st.binary(min_size=REPORT_SIZE, max_size=REPORT_SIZE))
def test_no_bytes_end_in_a_traceback(data: bytes) -> None:
    with contextlib.suppress(AttestationFailed):
        SnpReport.decode(data)


@given(st.integers(0, REPORT_SIZE - 1), st.binary(min_size=1, max_size=16))
def test_changed_reports_are_parsed_or_refused_and_kept_as_they_are(
    offset: int, value: bytes
) -> None:
    data = changed(GOOD, offset, value)[:REPORT_SIZE]
    with contextlib.suppress(AttestationFailed):
        assert SnpReport.decode(data).raw == data


GOOD = Part().report()
