"""AMD's certificates as they are: the table they come in, their chain, and what they say of a chip.

ARK (self-signed) -> ASK or ASVK -> VCEK or VLEK. Measured on genuine certificates: RSA-4096 PSS
with SHA-384, MGF1-SHA-384 and a salt of 48 bytes; the leaf's key is P-384 and its serial number
0; the hardware id is raw bytes where X.509 wants DER.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from sevfork.attest.snp.report import Product, SigningKey, Tcb
from sevfork.errors import AttestationFailed

# A VCEK's serial number is 0, which RFC 5280 forbids and cryptography warns about at every load.
warnings.filterwarnings(
    "ignore", message="Parsed a serial number", category=CryptographyDeprecationWarning
)

# SHA-256 over DER, computed from the published roots (https://kdsintf.amd.com/vcek/v1/*/cert_chain).
AMD_ROOTS = {
    Product.MILAN: "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
    Product.GENOA: "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
    Product.TURIN: "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
}
PSS_SHA384 = padding.PSS(mgf=padding.MGF1(SHA384()), salt_length=48)
_RSA_BITS = 4096
_PEM = b"-----BEGIN"
_PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)
_AMD = "1.3.6.1.4.1.3704.1."
OID_STRUCT_VERSION, OID_PRODUCT, OID_HWID, OID_CSP_ID = (_AMD + n for n in ("1", "2", "4", "5"))
OID_TCB = {
    "bootloader": _AMD + "3.1",
    "tee": _AMD + "3.2",
    "snp": _AMD + "3.3",
    "microcode": _AMD + "3.8",
    "fmc": _AMD + "3.9",
}
_DER_INTEGER, _DER_OCTETS, _DER_IA5 = 0x02, 0x04, 0x16
_T = TypeVar("_T")


@dataclass(frozen=True)
class CertificateTable:
    """What a host hands a guest beside a report (GHCB specification): entries by GUID.

    Each entry: 16-byte GUID (big-endian) | u32 offset | u32 length, little-endian, a zero entry
    ends them; the contents follow, DER or PEM. The host pads, so what trails is not looked at,
    and entries that are not ours are passed over.
    """

    vcek: bytes = b""
    vlek: bytes = b""
    ask: bytes = b""
    ark: bytes = b""
    crl: bytes = b""

    @classmethod
    def decode(cls, data: bytes) -> CertificateTable:
        """Raise AttestationFailed on an entry that is outside the data, empty or there twice."""
        found: dict[str, bytes] = {}
        for guid, content in _entries(data):
            name = _GUIDS.get(guid)
            if name in found or not content:
                raise AttestationFailed(
                    f"certificate table: the entry '{guid}' is doubled or empty"
                )
            if name is not None:
                found[name] = content
        return cls(**found)

    def encode(self) -> bytes:
        entries = [(guid, getattr(self, name)) for guid, name in _GUIDS.items()]
        present = [(guid, content) for guid, content in entries if content]
        offset = _ENTRY_SIZE * (len(present) + 1)
        head, body = b"", b""
        for guid, content in present:
            place = offset + len(body)
            head += guid.bytes + place.to_bytes(4, "little") + len(content).to_bytes(4, "little")
            body += content
        return head + bytes(_ENTRY_SIZE) + body if present else b""


_ENTRY_SIZE = 24
_GUIDS = {
    UUID("63da758d-e664-4564-adc5-f4b93be8accd"): "vcek",
    UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1"): "vlek",
    UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782"): "ask",
    UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae"): "ark",
    UUID("92f81bc3-5811-4d3d-97ff-d19f88dc67ea"): "crl",
}


def _entries(data: bytes) -> Iterable[tuple[UUID, bytes]]:
    for place in range(0, len(data), _ENTRY_SIZE):
        entry = data[place : place + _ENTRY_SIZE]
        if len(entry) < _ENTRY_SIZE:
            break
        guid, offset = UUID(bytes=entry[:16]), int.from_bytes(entry[16:20], "little")
        size = int.from_bytes(entry[20:24], "little")
        if not any(entry):
            return
        if offset < place + _ENTRY_SIZE or offset + size > len(data):
            raise AttestationFailed(f"certificate table: the entry '{guid}' lies outside the table")
        yield guid, data[offset : offset + size]
    if data:
        raise AttestationFailed("certificate table: it does not end with a zero entry")


@dataclass(frozen=True)
class Endorsement:
    """What AMD says of the chip in a VCEK or VLEK, which no host can choose."""

    product_name: str
    tcb: Tcb
    hardware_id: bytes | None
    csp_id: str | None


@dataclass(frozen=True)
class Certificate:
    """One certificate with all that is used of it read already, so no later step can fail."""

    der: bytes
    common_name: str
    subject: bytes
    issuer: bytes
    serial: int
    not_before: datetime
    not_after: datetime
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    parsed: x509.Certificate
    may_issue: bool
    endorsement: Endorsement | None

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the DER, in hexadecimal."""
        return hashlib.sha256(self.der).hexdigest()

    @classmethod
    def parse(cls, data: bytes) -> Certificate:
        """One certificate, DER or PEM; raise AttestationFailed for anything else."""
        return _guarded("a certificate", lambda: _read(_load_one(data)))

    def issued_by(self, issuer: Certificate) -> bool:
        """True if names match and the issuer's RSA-4096 key signed this, as AMD does it."""
        if not _signed_by(issuer, self.parsed.signature, self.parsed.tbs_certificate_bytes):
            return False
        try:
            # The signature was checked; this adds that names match, and that the algorithm named
            # outside of what is signed is the one inside.
            self.parsed.verify_directly_issued_by(issuer.parsed)
        except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
            return False
        return True


@dataclass(frozen=True)
class RevocationList:
    """A CRL of one ARK: it names revoked ASKs and ASVKs by serial number."""

    issuer: bytes
    number: int | None
    last_update: datetime
    next_update: datetime | None
    revoked: frozenset[int]
    parsed: x509.CertificateRevocationList

    @classmethod
    def parse(cls, data: bytes) -> RevocationList:
        """One CRL, DER or PEM; raise AttestationFailed for anything else."""
        return _guarded("a revocation list", lambda: _read_crl(data))

    def issued_by(self, issuer: Certificate) -> bool:
        """True if names match and the issuer's RSA-4096 key signed this, as AMD does it."""
        if self.issuer != issuer.subject or not isinstance(issuer.key, rsa.RSAPublicKey):
            return False
        if not _signed_by(issuer, self.parsed.signature, self.parsed.tbs_certlist_bytes):
            return False
        try:
            return self.parsed.is_signature_valid(issuer.key)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            return False


def split_pem(content: bytes) -> list[bytes]:
    """The PEM blocks of a file, each by itself; the whole content where there is none (DER)."""
    return [found[0] + b"\n" for found in _PEM_BLOCK.finditer(content)] or [content]


def _guarded(what: str, read: Callable[[], _T]) -> _T:
    """Whatever goes wrong in reading an attacker's X.509 becomes one error of ours."""
    try:
        return read()
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension) as exc:
        raise AttestationFailed(f"{what} is not valid: {exc}") from exc
    except (x509.UnsupportedGeneralNameType, x509.InvalidVersion, OverflowError) as exc:
        raise AttestationFailed(f"{what} is not supported: {exc}") from exc


def _load_one(data: bytes) -> x509.Certificate:
    if data.lstrip().startswith(_PEM):
        certificates = x509.load_pem_x509_certificates(data)
        if len(certificates) != 1:
            raise AttestationFailed(f"want one certificate, got {len(certificates)}")
        return certificates[0]
    return x509.load_der_x509_certificate(data)


def _read(certificate: x509.Certificate) -> Certificate:
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise AttestationFailed("a certificate has a key that is neither RSA nor EC")
    return Certificate(
        der=certificate.public_bytes(Encoding.DER),
        common_name=_common_name(certificate.subject),
        subject=certificate.subject.public_bytes(),
        issuer=certificate.issuer.public_bytes(),
        serial=certificate.serial_number,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        key=key,
        parsed=certificate,
        may_issue=_may_issue(certificate.extensions),
        endorsement=_endorsement(certificate.extensions),
    )


def _read_crl(data: bytes) -> RevocationList:
    pem = data.lstrip().startswith(_PEM)
    crl = x509.load_pem_x509_crl(data) if pem else x509.load_der_x509_crl(data)
    number = [e.value.crl_number for e in crl.extensions if isinstance(e.value, x509.CRLNumber)]
    return RevocationList(
        issuer=crl.issuer.public_bytes(),
        number=number[0] if number else None,
        last_update=crl.last_update_utc,
        next_update=crl.next_update_utc,
        revoked=frozenset(entry.serial_number for entry in crl),
        parsed=crl,
    )


def _signed_by(issuer: Certificate, signature: bytes, signed: bytes) -> bool:
    """PSS parameters are fixed here, never read from the certificate: it is the attacker's."""
    if not isinstance(issuer.key, rsa.RSAPublicKey) or issuer.key.key_size != _RSA_BITS:
        return False
    try:
        issuer.key.verify(signature, signed, PSS_SHA384, SHA384())
    except InvalidSignature:
        return False
    return True


def _common_name(name: x509.Name) -> str:
    values = [a.value for a in name if a.oid == x509.NameOID.COMMON_NAME]
    if len(values) != 1 or not isinstance(values[0], str):
        raise AttestationFailed(f"a certificate has {len(values)} common names, want one")
    return values[0]


def _may_issue(extensions: x509.Extensions) -> bool:
    """A certificate authority that may sign certificates, by both of the extensions that say so."""
    values = [extension.value for extension in extensions]
    basic = [v.ca for v in values if isinstance(v, x509.BasicConstraints)]
    usage = [v.key_cert_sign for v in values if isinstance(v, x509.KeyUsage)]
    return basic == [True] and usage == [True]


def _endorsement(extensions: x509.Extensions) -> Endorsement | None:
    """AMD's own extensions; None for a certificate that has none of them (ARK, ASK, ASVK)."""
    unknown = (e.value for e in extensions if isinstance(e.value, x509.UnrecognizedExtension))
    values = {value.oid.dotted_string: value.value for value in unknown}
    if OID_PRODUCT not in values:
        return None
    svns = {name: _small(values[oid]) for name, oid in OID_TCB.items() if oid in values}
    if set(OID_TCB) - {"fmc"} - set(svns):
        raise AttestationFailed("the endorsement certificate lacks a part of its TCB")
    return Endorsement(
        product_name=_der(values[OID_PRODUCT], _DER_IA5).decode("ascii"),
        tcb=Tcb(**svns),
        hardware_id=_hardware_id(values[OID_HWID]) if OID_HWID in values else None,
        csp_id=_der(values[OID_CSP_ID], _DER_IA5).decode("ascii") if OID_CSP_ID in values else None,
    )


def _der(data: bytes, tag: int) -> bytes:
    """The content of one DER value of less than 128 bytes that fills ``data``."""
    if len(data) < 2 or data[0] != tag or data[1] > 127 or data[1] != len(data) - 2:
        raise AttestationFailed(f"an endorsement extension is not DER of type {tag}: {data.hex()}")
    return data[2:]


def _small(data: bytes) -> int:
    """A DER INTEGER from 0 to 255."""
    number = _der(data, _DER_INTEGER)
    if (
        not number
        or int.from_bytes(number, "big", signed=True) not in range(256)
        or len(number) > 2
    ):
        raise AttestationFailed(f"a security version number is out of range: {data.hex()}")
    return int.from_bytes(number, "big")


def _hardware_id(data: bytes) -> bytes:
    """Raw in genuine certificates, 64 bytes or Turin's 8; a DER OCTET STRING is read too."""
    if len(data) in (8, 64):
        return data
    return _der(data, _DER_OCTETS)


@dataclass(frozen=True)
class Chain:
    """Root, intermediate and leaf as they were handed over; nothing about them is checked yet."""

    ark: Certificate
    intermediate: Certificate
    leaf: Certificate
    endorsement: Endorsement
    crl: RevocationList | None

    @classmethod
    def of(cls, table: CertificateTable, signing_key: SigningKey) -> Chain:
        """The chain of the key that the report names; raise AttestationFailed if it is absent."""
        wanted = {"ARK": table.ark, "ASK": table.ask}
        leaf_name = signing_key.name
        wanted[leaf_name] = table.vlek if signing_key is SigningKey.VLEK else table.vcek
        missing = [name for name, content in wanted.items() if not content]
        if missing or signing_key is SigningKey.NONE:
            raise AttestationFailed(
                f"no certificate for: {', '.join(missing) or 'an unsigned report'}"
            )
        leaf = Certificate.parse(wanted[leaf_name])
        if leaf.endorsement is None:
            raise AttestationFailed(f"the {leaf_name} certificate says nothing of a chip")
        crl = RevocationList.parse(table.crl) if table.crl else None
        ark, ask = Certificate.parse(table.ark), Certificate.parse(table.ask)
        return cls(ark, ask, leaf, leaf.endorsement, crl)

    @property
    def product(self) -> Product | None:
        """By the root's name; meaningful only together with the root's pinned fingerprint."""
        names = {f"ARK-{product.value}": product for product in Product}
        return names.get(self.ark.common_name)

    @property
    def members(self) -> tuple[tuple[str, Certificate], ...]:
        return (("ARK", self.ark), ("ASK", self.intermediate), ("leaf", self.leaf))
