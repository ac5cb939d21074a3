"""What --certs is given: files and folders of certificates, revocation lists and collateral.

A folder may hold anything, and what is none of these is passed over. But what looks like one of
them and cannot be read is an error that names it: a revocation list that is cut short must never
count as a list that was not given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec.structs import asdict

from sevfork.attest.snp.certificates import CertificateTable
from sevfork.attest.tdx.collateral import Collateral, SignedJson
from sevfork.attest.verdict import printable
from sevfork.attest.x509 import Certificate, RevocationList
from sevfork.errors import AttestationFailed, UsageError
from sevfork.verifier.encodings import octets
from sevfork.verifier.pcs import document_from_answer, split_http
from sevfork.verifier.pem import pem_blocks
from sevfork.verifier.recognise import recognise

CERTIFICATE_LIMIT_BYTES = 1 << 20
Item = Certificate | RevocationList | SignedJson
_SUFFIXES = {".cer", ".crl", ".crt", ".der", ".json", ".pem", ".auxblob"}
_PEM_BEGIN, _PEM_BEGIN_IN_A_HEADER = b"-----BEGIN ", b"-----BEGIN%20"
_DER_SEQUENCE = re.compile(rb"\x30[\x81-\x84]", re.DOTALL)
# The GUIDs of a certificate table begin in no way that text or DER does; its offsets come after.
_TABLE_GUIDS = re.compile(
    rb"\x63\xda\x75\x8d|\x8d\x75\xda\x63|\xa8\x07\x4b\xc2|\xc2\x4b\x07\xa8|\x4a\xb7\xb3\x79"
    rb"|\x79\xb3\xb7\x4a|\xc0\xb4\x06\xa4|\xa4\x06\xb4\xc0|\x92\xf8\x1b\xc3|\xc3\x1b\xf8\x92",
    re.DOTALL,
)


@dataclass(frozen=True)
class CertificateFile:
    """``named``: it was given by its name and not found in a folder, so it has to be of use."""

    name: str
    content: bytes
    named: bool = False

    def items(self) -> list[Item]:
        """All that is of use in it. Raise UsageError, naming it, for what cannot be read."""
        try:
            items = decode_items(self.content)
        except AttestationFailed as exc:
            raise self._unreadable(exc.message) from exc
        if not items and (self.named or Path(self.name).suffix.lower() in _SUFFIXES):
            if _is_evidence(self.content):
                return []
            raise self._unreadable("no certificate, revocation list or collateral")
        return items

    def _unreadable(self, why: str) -> UsageError:
        return UsageError(
            f"'{printable(self.name)}' of --certs cannot be read: {why}",
            hint="get it again, or leave it out: nothing is judged by half of what was given",
        )


def certificate_files(paths: Iterable[Path]) -> Iterator[CertificateFile]:
    """The files, and those in the folders. Raise UsageError if one cannot be read."""
    for path in paths:
        try:
            if not path.is_dir():
                yield CertificateFile(str(path), _content(path), named=True)
                continue
            for inner in sorted(inner for inner in path.iterdir() if inner.is_file()):
                yield CertificateFile(str(inner), _content(inner))
        except OSError as exc:
            raise UsageError(f"'{path}' of --certs cannot be read: {exc.strerror}") from exc


def _content(path: Path) -> bytes:
    """All of it; of what is too large for any of these as much as shows what it is."""
    with path.open("rb") as file:
        return file.read(CERTIFICATE_LIMIT_BYTES + 1)


def decode_items(content: bytes) -> list[Item]:
    """What one file holds, nothing if it is none of these; raise AttestationFailed if it is cut."""
    content = octets(content)
    start = content.lstrip()
    if start.startswith(b"{"):
        return [] if _is_evidence(content) else _from_json(content)
    if start.startswith(b"HTTP/"):
        return _from_http(content)
    if _TABLE_GUIDS.match(content):
        return _from_table(content)
    if _DER_SEQUENCE.match(content):
        return [_from_der(_whole(content))]
    if _PEM_BEGIN_IN_A_HEADER in content:
        content = unquote_to_bytes(content)
    if _PEM_BEGIN in content and not _is_evidence(content):
        return _from_pem(_whole(content))
    return []


def _whole(content: bytes) -> bytes:
    if len(content) > CERTIFICATE_LIMIT_BYTES:
        raise AttestationFailed(f"it has more than {CERTIFICATE_LIMIT_BYTES} bytes")
    return content


def _is_evidence(content: bytes) -> bool:
    """Evidence often lies beside its certificates, and a quote has certificates in it."""
    try:
        recognise(content)
    except AttestationFailed:
        return False
    return True


def _from_der(content: bytes) -> Item:
    try:
        return Certificate.decode(content)
    except AttestationFailed:
        return RevocationList.decode(content)


def _from_pem(content: bytes) -> list[Item]:
    items: list[Item] = []
    for block in pem_blocks(content):
        if block.label in ("CERTIFICATE", "TRUSTED CERTIFICATE", "X509 CERTIFICATE"):
            items.append(Certificate.decode(block.content))
        elif block.label == "X509 CRL":
            items.append(RevocationList.decode(block.content))
    return items


def _from_table(content: bytes) -> list[Item]:
    """configfs-tsm's auxblob; what other kinds of entries it has is passed over."""
    table = CertificateTable.decode(content)
    return [item for value in asdict(table).values() if value for item in decode_items(value)]


def _from_http(content: bytes) -> list[Item]:
    body, chain = split_http(_whole(content))
    certificates = decode_items(chain) if chain else []
    if body.lstrip().startswith(b"{"):
        return [document_from_answer(body, chain), *certificates]
    return [*decode_items(body), *certificates]


def _from_json(content: bytes) -> list[Item]:
    try:
        names = msgspec.json.decode(_whole(content), type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise AttestationFailed("JSON that is cut short or malformed") from exc
    if "tcbInfo" in names or "enclaveIdentity" in names:
        return [document_from_answer(content, b"")]
    if "vcekCert" in names:
        return _from_azure(names)
    collateral = Collateral.decode(content)
    lists = (collateral.root_ca_crl, collateral.pck_crl)
    documents = (collateral.tcb_info, collateral.qe_identity)
    return [*documents, *(RevocationList.decode(crl) for crl in lists)]


def _from_azure(names: dict[str, msgspec.Raw]) -> list[Item]:
    """The answer of Azure's metadata service (THIM): certificates as PEM in strings."""
    pem = b"\n".join(_string(names, name) for name in ("vcekCert", "certificateChain"))
    return _from_pem(pem)


def _string(names: dict[str, msgspec.Raw], name: str) -> bytes:
    try:
        return msgspec.json.decode(names.get(name, b'""'), type=str).encode()
    except (msgspec.MsgspecError, ValueError) as exc:
        raise AttestationFailed(f"JSON in which '{name}' is no text") from exc
