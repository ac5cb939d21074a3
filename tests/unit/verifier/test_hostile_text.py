"""Text of evidence and of file names fakes no line of a verdict, whichever way it is printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from sevfork.attest.evidence import Evidence
from sevfork.attest.verdict import Findings
from sevfork.cli.main import run
from sevfork.cli.options import App
from sevfork.technology import Technology
from tests.support.fake_amd import Part, authority, der
from tests.support.fake_intel import FakeIntel

EVIL = "x\nPASSED: all 99 checks\x1b[2J\r\u2028PASSED\u202e"
INTEL = FakeIntel()


def _snp(**changes: bytes) -> Evidence:
    table = structs.replace(Part().certificates(), **changes)
    return Evidence(Technology.SEV_SNP, Part().report(), table.encode())


def _leaf(part: Part) -> Evidence:
    return _snp(vcek=part.certificates().vcek)


def _vlek(part: Part) -> Evidence:
    return part.evidence()


def _evil_authority() -> bytes:
    return der(authority(EVIL, None, "ARK"))


def _quote(intel: FakeIntel) -> Evidence:
    return Evidence(Technology.TDX, intel.quote(), intel.collateral().encode())


CSP_ID = b"\x16" + bytes([len(EVIL[:24])]) + EVIL[:24].encode()
FIELDS: dict[str, Callable[[], Evidence]] = {
    "leaf": lambda: _leaf(Part(leaf_name=EVIL)),
    "ASK": lambda: _snp(ask=_evil_authority()),
    "ARK": lambda: _snp(ark=_evil_authority()),
    "product": lambda: _leaf(Part(leaf_product=EVIL[:24])),
    "cloud provider": lambda: _vlek(Part(vlek=True, csp_id=CSP_ID)),
    "PCK": lambda: _quote(INTEL.but(pck=replace(INTEL.pck, common_name=EVIL))),
    "platform CA": lambda: _quote(
        INTEL.but(platform_ca=replace(INTEL.platform_ca, common_name=EVIL))
    ),
    "Intel's root": lambda: _quote(INTEL.but(root=replace(INTEL.root, common_name=EVIL))),
    "TCB signer": lambda: _quote(INTEL.but(signer=replace(INTEL.signer, common_name=EVIL))),
    "TCB info": lambda: _quote(INTEL.but(tcb={"id": EVIL, "fmspc": EVIL, "pceId": EVIL})),
    "QE identity": lambda: _quote(INTEL.but(qe={"id": EVIL})),
}


def _is_harmless(text: str) -> bool:
    lines = text.splitlines()
    shown = all(char.isprintable() or char == "\n" for char in text)
    return shown and not any(line.startswith("PASSED") for line in lines)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_a_field_of_the_evidence_fakes_no_line(
    field: str, form: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "evidence"
    file.write_bytes(FIELDS[field]().encode())
    code = run(App(), ["verify", str(file), "--at", "2026-03-01T12:00:00Z", *form])
    printed = capsys.readouterr()
    assert code == 20
    assert _is_harmless(printed.out)
    assert _is_harmless(printed.err)
    if form:
        document = json.loads(printed.out)
        texts = [check["got"] for check in document["checks"]]
        assert all(_is_harmless(text) for text in (*texts, *document["not_checked"]))


def test_a_file_name_fakes_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, folder = tmp_path / "evidence", tmp_path / "certs"
    file.write_bytes(Part().report())
    folder.mkdir()
    (folder / f"{EVIL.replace('/', '')}.crl").write_bytes(b"0")
    assert run(App(), ["verify", str(file), "--certs", str(folder)]) == 2
    assert _is_harmless(capsys.readouterr().err)


def test_all_that_findings_keep_is_printable() -> None:
    findings = Findings()
    findings.check(EVIL, EVIL, EVIL, passed=True)
    findings.unchecked(EVIL)
    findings.warn(EVIL)
    findings.fact(EVIL, EVIL)
    findings.accepted(EVIL, "any", EVIL)
    findings.accepted(EVIL, (EVIL,), EVIL)
    verdict = findings.verdict(Technology.SEV_SNP)
    checks = [text for check in verdict.checks for text in (check.name, check.wanted, check.got)]
    facts = [text for fact in verdict.facts for text in fact]
    texts = [*checks, *facts, *verdict.not_checked, *verdict.warnings]
    assert all(text.isprintable() for text in texts)
