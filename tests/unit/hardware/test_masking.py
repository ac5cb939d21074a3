"""A report names no machine: not its chip, not its platform, not its host."""

from __future__ import annotations

import base64
import json

import pytest

from scripts.hardware.masking import identifiers, masked, masked_evidence, read
from sevfork.attest.evidence import Evidence
from sevfork.attest.snp.report import SnpReport
from sevfork.technology import Technology
from tests.support.fake_amd import Part
from tests.support.fake_intel import FakeIntel

MILAN, TURIN = Part(), Part(product="Turin")
EVIDENCE = {"milan": MILAN.evidence(), "turin": TURIN.evidence(), "tdx": FakeIntel().evidence()}
CASES = pytest.mark.parametrize("evidence", EVIDENCE.values(), ids=list(EVIDENCE))


@CASES
def test_the_signed_part_names_no_machine(evidence: Evidence) -> None:
    document = masked_evidence(evidence)
    signed = base64.b64decode(document["signed_part_masked"])
    assert document["technology"] == evidence.technology.value
    names = [bytes.fromhex(name) for name in identifiers(evidence)]
    assert names
    assert not [name for name in names if name in signed]


def test_what_is_not_the_machines_stays_as_it_was() -> None:
    report = SnpReport.decode(EVIDENCE["milan"].report)
    signed = base64.b64decode(masked_evidence(EVIDENCE["milan"])["signed_part_masked"])
    assert signed[:0x1A0] == report.raw[:0x1A0]
    assert signed[0x1E0:] == report.raw[0x1E0:0x2A0]


def test_nothing_of_signature_or_certificates_is_left() -> None:
    for evidence in EVIDENCE.values():
        signed = base64.b64decode(masked_evidence(evidence)["signed_part_masked"])
        assert len(signed) < len(evidence.report)


@CASES
def test_a_verdict_loses_the_names_too(evidence: Evidence) -> None:
    names = identifiers(evidence)
    document = {"facts": [{"chip": names[0].upper()}, f"hwID={names[-1]};"], "ok": True, "n": 3}
    text = json.dumps(masked(document, "", names))
    assert not [name for name in names if name in text.lower()]
    assert masked(document, "", names)["n"] == 3


def test_a_chip_id_is_masked_where_no_evidence_was_saved() -> None:
    chip_id, measurement = "c1" * 64, "ab" * 48
    text = masked({"stderr": f"chip {chip_id} of {measurement}"}, "", ())["stderr"]
    assert text == f"chip <masked> of {measurement}"


def test_a_host_name_is_masked_where_it_stands_alone() -> None:
    found = masked(["at 'vm'", "vm", "kvm and vm-fork", "qemu+ssh://root@vm/system"], "vm", ())
    assert found == [
        "at '<masked>'",
        "<masked>",
        "kvm and vm-fork",
        "qemu+ssh://root@<masked>/system",
    ]


def test_evidence_is_read_and_anything_else_is_not() -> None:
    assert read(EVIDENCE["milan"].encode()) == EVIDENCE["milan"]
    assert read(b"") is None
    assert read(EVIDENCE["milan"].encode()[:-1]) is None
    assert read(Evidence(Technology.TDX, b"no quote", b"").encode()) is None
    assert read(Evidence(Technology.SEV_SNP, b"no report", b"").encode()) is None
