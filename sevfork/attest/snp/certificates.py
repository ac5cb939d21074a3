"""AMD's certificates: the table they come in, and what they say of a chip.

ARK (self-signed) -> ASK or ASVK -> VCEK or VLEK. Measured on genuine certificates: RSA-4096 PSS
with SHA-384, MGF1-SHA-384 and a salt of 48 bytes; the leaf's key is P-384 and its serial number
0; the hardware id is raw bytes where X.509 wants DER.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from uuid import UUID

from msgspec import Struct

from sevfork.attest.snp.report import Product, SigningKey, Tcb
from sevfork.attest.x509 import Certificate, Chain, RevocationList
from sevfork.errors import AttestationFailed

# SHA-256 over DER, computed from the published roots (https://kdsintf.amd.com/vcek/v1/*/cert_chain).
AMD_ROOTS = {
    Product.MILAN: "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
    Product.GENOA: "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
    Product.TURIN: "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
}
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


class CertificateTable(Struct, frozen=True):
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
            # Hosts write GUIDs as the GHCB specification does, or as Windows: both are read.
            name = _GUIDS.get(guid) or _GUIDS.get(UUID(bytes_le=guid.bytes))
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


class Endorsement(Struct, frozen=True):
    """What AMD says of the chip in a VCEK or VLEK, which no host can choose."""

    product_name: str
    tcb: Tcb
    hardware_id: bytes | None
    csp_id: str | None

    @classmethod
    def decode(cls, extensions: Mapping[str, bytes]) -> Endorsement:
        """From AMD's own extensions of a certificate, which ARK, ASK and ASVK do not have."""
        if OID_PRODUCT not in extensions:
            raise AttestationFailed("the endorsement certificate says nothing of a chip")
        svns = {name: _small(extensions[oid]) for name, oid in OID_TCB.items() if oid in extensions}
        if set(OID_TCB) - {"fmc"} - set(svns):
            raise AttestationFailed("the endorsement certificate lacks a part of its TCB")
        hardware_id, csp_id = extensions.get(OID_HWID), extensions.get(OID_CSP_ID)
        return cls(
            product_name=_text(extensions[OID_PRODUCT]),
            tcb=Tcb(**svns),
            hardware_id=None if hardware_id is None else _hardware_id(hardware_id),
            csp_id=None if csp_id is None else _text(csp_id),
        )


def _text(data: bytes) -> str:
    """A DER IA5String, which has nothing but ASCII."""
    content = _der(data, _DER_IA5)
    if not content.isascii():
        raise AttestationFailed(f"an endorsement extension is not ASCII: {data.hex()}")
    return content.decode("ascii")


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


class ReportSigner(Struct, frozen=True):
    """Who signed a report, as the certificates have it; nothing about them is checked yet."""

    chain: Chain
    endorsement: Endorsement
    crl: RevocationList | None

    @classmethod
    def decode(cls, table: CertificateTable, signing_key: SigningKey) -> ReportSigner:
        """The signer whose key the report names; raise AttestationFailed if it is absent."""
        leaf_name = signing_key.name
        leaf = table.vlek if signing_key is SigningKey.VLEK else table.vcek
        wanted = {"ARK": table.ark, "ASK": table.ask, leaf_name: leaf}
        missing = [name for name, content in wanted.items() if not content]
        if missing or signing_key is SigningKey.NONE:
            raise AttestationFailed(
                f"no certificate for: {', '.join(missing) or 'an unsigned report'}"
            )
        certificates = tuple(Certificate.decode(der) for der in (leaf, table.ask, table.ark))
        crl = RevocationList.decode(table.crl) if table.crl else None
        endorsement = Endorsement.decode(certificates[0].extensions)
        return cls(Chain(f"{leaf_name} chain", certificates), endorsement, crl)

    @property
    def product(self) -> Product | None:
        """By the root's name; meaningful only together with the root's pinned fingerprint."""
        names = {f"ARK-{product.value}": product for product in Product}
        return names.get(self.chain.root.common_name)
