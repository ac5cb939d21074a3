"""What --certs takes, and that what it cannot read is named and never passed over."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from sevfork.attest.evidence import Evidence
from sevfork.attest.snp.certificates import AMD_ROOTS
from sevfork.attest.tdx.collateral import SignedJson
from sevfork.attest.x509 import Certificate, RevocationList, Scheme
from sevfork.errors import UsageError
from sevfork.technology import Technology
from sevfork.verifier.amd import amd_authorities
from sevfork.verifier.certificate_files import CertificateFile, certificate_files
from sevfork.verifier.pool import Pool
from tests.support.fake_amd import Part, authority, revocation_list
from tests.support.fake_intel import NOW, FakeIntel
from tests.support.tdx_samples import accepted, rejected, tdx_policy

TABLE = Part().certificates()
ASK, ARK = authority("SEV-Milan", "ARK-Milan", "ARK"), authority("ARK-Milan", None, "ARK")
PEM = (ASK.public_bytes(Encoding.PEM) + ARK.public_bytes(Encoding.PEM)).decode()
VCEK_PEM = Certificate.decode(TABLE.vcek).parsed.public_bytes(Encoding.PEM).decode()
THIM = json.dumps({"vcekCert": VCEK_PEM, "tcbm": "DB18000000000004", "certificateChain": PEM})
INTEL = FakeIntel()
COLLATERAL = INTEL.collateral()


def items(content: bytes) -> list[type]:
    return [type(item) for item in CertificateFile("file", content, named=True).items()]


def pcs(document: SignedJson, name: str) -> bytes:
    """A body as Intel's service sends it."""
    return b'{"%s":%s,"signature":"%s"}' % (
        name.encode(), document.text, document.signature.hex().encode(),
    )  # fmt: skip


TCB_INFO = pcs(COLLATERAL.tcb_info, "tcbInfo")
QE_IDENTITY = pcs(COLLATERAL.qe_identity, "enclaveIdentity")


def http(body: bytes, header: str, chain: bytes) -> bytes:
    """As ``curl -i`` prints it."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: x\r\n{header}: {quote(chain.decode())}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    ("content", "count"),
    [
        pytest.param(TABLE.vcek, 1, id="der"),
        pytest.param(PEM.encode(), 2, id="pem"),
        pytest.param(base64.encodebytes(TABLE.vcek), 1, id="base64_of_der"),
        pytest.param(TABLE.vcek.hex().encode(), 1, id="hex_of_der"),
        pytest.param(TABLE.encode() + bytes(4096), 3, id="auxblob"),
        pytest.param(THIM.encode(), 3, id="thim"),
        pytest.param(base64.b64encode(THIM.encode()), 3, id="thim_in_base64"),
        pytest.param(quote(PEM).encode(), 2, id="pem_from_a_header"),
    ],
)
def test_certificates_are_found_in_each_form(content: bytes, count: int) -> None:
    assert items(content) == [Certificate] * count


def test_lists_and_collateral_are_found() -> None:
    assert items(revocation_list()) == [RevocationList]
    assert items(revocation_list().hex().encode()) == [RevocationList]
    collateral = [SignedJson, SignedJson, RevocationList, RevocationList]
    assert items(COLLATERAL.encode()) == collateral
    assert items(TCB_INFO) == [SignedJson]
    chain = COLLATERAL.tcb_info.issuer_chain
    answer = http(TCB_INFO, "TCB-Info-Issuer-Chain", chain)
    assert items(answer) == [SignedJson, Certificate, Certificate]


@pytest.mark.parametrize(
    "name",
    ["revocation list", "certificate", "pem", "collateral", "auxblob", "answer", "thim"],
)
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_what_is_cut_short_is_named_even_in_a_folder(name: str, kept: float) -> None:
    whole = {
        "revocation list": revocation_list(),
        "certificate": TABLE.vcek,
        "pem": PEM.encode(),
        "collateral": COLLATERAL.encode(),
        "auxblob": TABLE.encode(),
        "answer": TCB_INFO,
        "thim": THIM.encode(),
    }[name]
    cut = CertificateFile("folder/cut", whole[: int(len(whole) * kept)])
    with pytest.raises(UsageError, match="'folder/cut' of --certs cannot be read"):
        cut.items()


@pytest.mark.parametrize("name", ["a.crl", "a.pem", "a.json", "a.der"])
@pytest.mark.parametrize("content", [b"", b"<html>429</html>", b"\0" * 100])
def test_a_name_that_promises_a_certificate_has_to_keep_it(name: str, content: bytes) -> None:
    with pytest.raises(UsageError, match="no certificate"):
        CertificateFile(f"folder/{name}", content).items()


def test_too_large_a_list_is_named() -> None:
    large = CertificateFile("a.crl", revocation_list() + bytes(1 << 20))
    with pytest.raises(UsageError, match="more than"):
        large.items()


@pytest.mark.parametrize("content", [b"", b"hello", Part().report(), INTEL.quote(), b"\x7fELF"])
def test_other_files_of_a_folder_are_passed_over(content: bytes) -> None:
    assert CertificateFile("folder/README", content).items() == []


def test_evidence_by_the_name_of_a_certificate_is_passed_over() -> None:
    assert CertificateFile("folder/quote.der", INTEL.quote()).items() == []


def test_files_and_folders_are_read(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/b.der").write_bytes(TABLE.ask)
    (tmp_path / "a").write_bytes(TABLE.vcek)
    files = list(certificate_files([tmp_path / "folder", tmp_path / "a"]))
    assert [(Path(file.name).name, file.named) for file in files] == [("b.der", False), ("a", True)]


def test_a_named_file_that_is_of_no_use_is_an_error() -> None:
    with pytest.raises(UsageError, match="'notes'"):
        CertificateFile("notes", b"hello", named=True).items()


# What comes with sevfork


def test_amds_authorities_are_the_published_ones() -> None:
    by_name = {one.common_name: one for one in amd_authorities()}
    for product, fingerprint in AMD_ROOTS.items():
        ark = by_name[f"ARK-{product.value}"]
        assert ark.fingerprint == fingerprint
        for name in (f"SEV-{product.value}", f"SEV-VLEK-{product.value}"):
            assert by_name[name].issued_by(ark, Scheme.AMD)
            assert by_name[name].may_issue
    assert len(by_name) == 9


# Intel's collateral, from its parts

BARE = Evidence(Technology.TDX, INTEL.quote(), b"")
PARTS: dict[str, Callable[[], bytes]] = {
    "TCB info": lambda: TCB_INFO,
    "QE identity": lambda: QE_IDENTITY,
    "Intel SGX Root CA": lambda: COLLATERAL.root_ca_crl,
    "Intel SGX PCK Platform CA": lambda: COLLATERAL.pck_crl,
    "Intel SGX TCB Signing": lambda: COLLATERAL.tcb_info.issuer_chain,
}


def pool(*contents: bytes) -> Pool:
    return Pool.read([CertificateFile("f", content) for content in contents], NOW)


def test_answers_of_intels_service_make_collateral() -> None:
    complete = pool(*(part() for part in PARTS.values())).complete(BARE)
    assert accepted(complete, tdx_policy(INTEL.root_sha256), NOW).verdict.passed


def test_so_do_answers_with_their_headers() -> None:
    chain = COLLATERAL.tcb_info.issuer_chain
    complete = pool(
        http(TCB_INFO, "TCB-Info-Issuer-Chain", chain),
        http(QE_IDENTITY, "SGX-Enclave-Identity-Issuer-Chain", chain),
        http(COLLATERAL.pck_crl, "SGX-PCK-CRL-Issuer-Chain", INTEL.pck_chain()),
        COLLATERAL.root_ca_crl,
    ).complete(BARE)
    assert accepted(complete, tdx_policy(INTEL.root_sha256), NOW).verdict.passed


@pytest.mark.parametrize("absent", PARTS)
def test_collateral_that_is_not_whole_is_named(absent: str) -> None:
    contents = [part() for name, part in PARTS.items() if name != absent]
    with pytest.raises(UsageError, match=f"there is no .*{absent}"):
        pool(*contents).complete(BARE)


def test_no_collateral_at_all_leaves_the_evidence_as_it_is() -> None:
    assert pool(TABLE.vcek).complete(BARE) == BARE


def test_of_two_collaterals_the_one_of_the_fmspc_is_taken() -> None:
    other = FakeIntel(fmspc=bytes.fromhex("00a06d080000")).collateral()
    for order in ((other, COLLATERAL), (COLLATERAL, other)):
        complete = pool(*(one.encode() for one in order)).complete(BARE)
        assert accepted(complete, tdx_policy(INTEL.root_sha256), NOW).verdict.passed


def test_collateral_of_another_fmspc_alone_is_taken_and_rejected() -> None:
    other = FakeIntel(fmspc=bytes.fromhex("00a06d080000")).collateral()
    complete = pool(other.encode()).complete(BARE)
    failed = rejected(complete, tdx_policy(INTEL.root_sha256), NOW)
    assert set(failed) == {"FMSPC and PCE id of the TCB info"}


def test_old_collateral_in_the_evidence_does_not_hide_the_newer_of_a_file() -> None:
    """A host may keep collateral of the days when its platform was up to date."""
    older = FakeIntel(tcb={"issueDate": "2026-02-01T10:00:00Z"})
    newer = FakeIntel(pce_svn=11, tcb={"tcbLevels": []})
    complete = pool(newer.collateral().encode()).complete(older.evidence())
    failed = rejected(complete, tdx_policy(INTEL.root_sha256), NOW)
    assert set(failed) == {"TCB of the platform at launch"}
