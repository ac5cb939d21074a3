"""Which microcode and which chip a report may come from."""

from __future__ import annotations

import dataclasses

import pytest
from msgspec.structs import replace

from sevfork.attest.policy import MinimumTcb
from sevfork.attest.snp.report import Tcb
from sevfork.attest.verify import Expected
from tests.support.fake_amd import (
    ANY_KEY,
    REPORT_DATA,
    TCBS,
    Part,
    failed,
)

PRODUCTS = tuple(TCBS)


@pytest.mark.parametrize("component", ["bootloader", "snp", "microcode"])
def test_tcb_is_compared_by_component_and_not_as_one_number(component: str) -> None:
    low = replace(Tcb(255, 255, 255, 255), **{component: 0})
    verdict = Part(tcb=low).judge()
    assert failed(verdict) == ["TCB of the certificate", "TCB at launch"]


def test_turin_fmc_below_the_minimum_is_rejected() -> None:
    low = replace(TCBS["Turin"], fmc=2)
    verdict = Part(product="Turin", tcb=low).judge()
    assert failed(verdict) == ["TCB of the certificate", "TCB at launch"]


def test_tcb_of_the_certificate_counts_and_not_the_reports() -> None:
    """The report claims what the policy wants; the key that signed is an older firmware's."""
    old = Tcb(4, 0, 8, 115)
    verdict = Part(certified_tcb=old).judge()
    assert failed(verdict) == ["TCB of the certificate", "reported TCB"]


def test_provisional_firmware_passes_only_where_allowed() -> None:
    newer = Part(patches={0x3F: b"\xdc"})
    assert failed(newer.judge(allow_provisional_firmware=True)) == []
    older = Part(patches={0x3F: b"\x01"})
    assert failed(older.judge(allow_provisional_firmware=True)) == ["running TCB"]


def test_reserved_tcb_bytes_are_rejected() -> None:
    verdict = Part(patches={0x183: b"\1"}).judge()
    assert failed(verdict) == ["TCBs of the report"]


BY_STEPPING = MinimumTcb(
    bootloader=0, tee=0, snp=23, microcode=84, microcode_by_stepping={"a0/2": 25}
)


@pytest.mark.parametrize(
    ("cpuid", "microcode", "good"),
    [
        pytest.param((0x19, 0xA0, 2), 25, True, id="bergamo_has_numbers_of_its_own"),
        pytest.param((0x19, 0xA0, 2), 24, False, id="an_old_bergamo"),
        pytest.param((0x19, 0x11, 1), 83, False, id="an_old_genoa"),
        pytest.param((0x19, 0xA0, 1), 83, False, id="a_stepping_that_the_policy_does_not_name"),
    ],
)
def test_minimum_microcode_is_by_model_and_stepping(
    cpuid: tuple[int, int, int], microcode: int, good: bool
) -> None:
    tcb = replace(TCBS["Genoa"], microcode=microcode)
    part = Part(product="Genoa", tcb=tcb, patches={0x188: bytes(cpuid)})
    expected = [] if good else ["TCB of the certificate", "TCB at launch"]
    assert failed(part.judge(minimum_tcb={"Genoa": BY_STEPPING})) == expected


def test_a_version_2_report_has_to_meet_the_minimum_for_everything_else() -> None:
    tcb = replace(TCBS["Genoa"], microcode=25)
    part = Part(product="Genoa", tcb=tcb, version=2)
    assert "TCB of the certificate" in failed(part.judge(minimum_tcb={"Genoa": BY_STEPPING}))


# The chip


def test_zero_chip_id_is_rejected() -> None:
    part = Part(chip_id=bytes(64), hardware_id=b"\xc1" * 64)
    assert failed(part.judge()) == ["chip id"]


def test_zero_chip_id_cannot_be_cleared_by_a_deny_list() -> None:
    part = Part(chip_id=bytes(64), hardware_id=b"\xc1" * 64)
    verdict = part.judge(allow_masked_chip_id=True, denied_chips=("12" * 64,))
    assert failed(verdict) == ["denied chips"]


@pytest.mark.parametrize("vlek", [True, False])
def test_a_zero_chip_id_in_version_2_leaves_the_product_to_the_certificates(vlek: bool) -> None:
    part = Part(version=2, chip_id=bytes(64), hardware_id=b"\xc1" * 64, vlek=vlek)
    verdict = part.judge(**ANY_KEY, allow_masked_chip_id=True)
    assert failed(verdict) == []
    assert any(what.startswith("product of the report") for what in verdict.not_checked)
    turin = dataclasses.replace(part, root_product="Turin")
    assert "product of the certificate" in failed(turin.judge(allow_masked_chip_id=True))


def test_version_2_report_with_a_short_chip_id_is_not_from_milan() -> None:
    part = Part(version=2, chip_id=b"\xc1" * 8, hardware_id=b"\xc1" * 8 + bytes(56))
    assert failed(part.judge()) == ["product of the report"]


def test_a_zero_chip_id_does_not_hide_which_processor_a_newer_report_names() -> None:
    part = Part(chip_id=bytes(64), hardware_id=b"\xc1" * 64, patches={0x189: b"\x11"})
    assert failed(part.judge(allow_masked_chip_id=True)) == ["product of the report"]


def test_turin_chip_id_with_more_than_eight_bytes_is_rejected() -> None:
    part = Part(product="Turin", chip_id=b"\xc1" * 9, hardware_id=b"\xc1" * 8)
    assert failed(part.judge()) == ["hardware id of the certificate"]


def test_milan_certificate_with_a_short_hardware_id_is_rejected() -> None:
    part = Part(chip_id=b"\xc1" * 8, hardware_id=b"\xc1" * 8)
    assert failed(part.judge()) == ["hardware id of the certificate"]


def test_another_chip_than_the_own_is_rejected() -> None:
    expected = Expected(REPORT_DATA, chip_id=b"\xc2" * 64)
    assert failed(Part().judge(expected)) == ["same chip"]


def test_same_chip_cannot_be_shown_by_a_zero_chip_id() -> None:
    part = Part(chip_id=bytes(64), hardware_id=b"\xc1" * 64)
    verdict = part.judge(Expected(REPORT_DATA, chip_id=bytes(64)), allow_masked_chip_id=True)
    assert failed(verdict) == ["same chip"]
