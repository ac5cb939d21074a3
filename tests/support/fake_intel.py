"""An Intel of our own: it makes and signs quotes and collateral as Intel's parts and services do.

Only the root differs, so the same evidence goes through sevfork and through other verifiers, and
each field can be made wrong with everything above it signed properly.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from sevfork.attest.evidence import Evidence
from sevfork.attest.tdx.chain import INTEL_QE_MRSIGNER
from sevfork.attest.tdx.collateral import Collateral, SignedJson
from sevfork.attest.tdx.quote import INTEL_VENDOR_ID
from sevfork.technology import Technology

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
_DAY = timedelta(days=1)
_FROM, _UNTIL = NOW - 300 * _DAY, NOW + 3000 * _DAY
_SGX = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
_ARC = bytes.fromhex("2a864886f84d010d01")

ROOT = "Intel SGX Root CA"
PLATFORM_CA = "Intel SGX PCK Platform CA"
PCK = "Intel SGX PCK Certificate"
TCB_SIGNER = "Intel SGX TCB Signing"


@cache
def key(name: str) -> ec.EllipticCurvePrivateKey:
    """The same key for the same name within a run; on P-256, or on Bitcoin's curve if it says so.

    That one has numbers of the same size, so nothing but a check of the curve tells them apart.
    """
    return ec.generate_private_key(ec.SECP256K1() if name.endswith(" on K1") else ec.SECP256R1())


def sign(name: str, message: bytes) -> bytes:
    """r||s, 64 bytes, big-endian."""
    r, s = decode_dss_signature(key(name).sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def public_bytes(name: str) -> bytes:
    numbers = key(name).public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def der(tag: int, content: bytes) -> bytes:
    size = len(content)
    head = bytes([size]) if size < 128 else bytes([0x82]) + size.to_bytes(2, "big")
    return bytes([tag]) + head + content


def entry(oid: bytes, value: bytes) -> bytes:
    return der(0x30, der(0x06, _ARC + oid) + value)


def integer(number: int) -> bytes:
    return der(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True))


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


@dataclass(frozen=True)
class Certificate:
    """What a certificate says; ``issuer`` and ``subject`` name keys too.

    ``common_name`` and ``issuer_name`` are what is written in it, if not the keys' names.
    """

    subject: str
    issuer: str
    ca: bool
    extension: bytes | None = None
    serial: int = 1000
    start: datetime = _FROM
    end: datetime = _UNTIL
    common_name: str | None = None
    issuer_name: str | None = None

    def build(self) -> x509.Certificate:
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "encipher_only", "decipher_only"), False,
        )  # fmt: skip
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(self.common_name or self.subject))
            .issuer_name(_name(self.issuer_name or self.issuer))
            .public_key(key(self.subject).public_key())
            .serial_number(self.serial)
            .not_valid_before(self.start)
            .not_valid_after(self.end)
            .add_extension(x509.BasicConstraints(ca=self.ca, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=not self.ca, key_cert_sign=self.ca, crl_sign=self.ca, **usage
                ),
                critical=True,
            )
        )
        if self.extension is not None:
            unknown = x509.UnrecognizedExtension(_SGX, self.extension)
            builder = builder.add_extension(unknown, critical=False)
        return builder.sign(key(self.issuer), hashes.SHA256())

    @property
    def pem(self) -> bytes:
        return self.build().public_bytes(Encoding.PEM)


@cache
def crl(issuer: str, revoked: tuple[int, ...], start: datetime, end: datetime) -> bytes:
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(key(issuer).public_key())
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(_name(issuer))
        .last_update(start)
        .next_update(end)
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(identifier, critical=False)
    )
    for serial in revoked:
        entry_ = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(start)
        builder = builder.add_revoked_certificate(entry_.build())
    return builder.sign(key(issuer), hashes.SHA256()).public_bytes(Encoding.DER)


def level(status: str, *advisories: str, **tcb: Any) -> dict[str, Any]:
    """A TCB level as PCS writes it."""
    known = {"advisoryIDs": list(advisories)} if advisories else {}
    return {"tcb": tcb, "tcbDate": "2025-05-14T00:00:00Z", "tcbStatus": status, **known}


def platform_level(
    status: str, *advisories: str, sgx: int = 2, tdx: tuple[int, ...] = (5, 0, 2), pce: int = 11
) -> dict[str, Any]:
    """A platform's level: each SGX component ``sgx``, TDX components padded with zeros."""
    return level(
        status,
        *advisories,
        sgxtcbcomponents=[{"svn": sgx}] * 16,
        tdxtcbcomponents=[{"svn": svn} for svn in (*tdx, *[0] * (16 - len(tdx)))],
        pcesvn=pce,
    )


def _module(**more: Any) -> dict[str, Any]:
    return {
        "mrsigner": "00" * 48,
        "attributes": "00" * 8,
        "attributesMask": "ff" * 8,
        **more,
    }


@dataclass(frozen=True)
class FakeIntel:
    """One platform, its quote and its collateral; everything is right unless said otherwise."""

    version: int = 4
    body_type: int = 2
    fmspc: bytes = bytes.fromhex("b0c06f000000")
    ppid: bytes = b"\x11" * 16
    svns: tuple[int, ...] = (3,) * 16
    pce_svn: int = 11
    td: Mapping[str, bytes] = field(default_factory=dict)
    qe_mrsigner: bytes = INTEL_QE_MRSIGNER
    qe_prod_id: int = 2
    qe_svn: int = 4
    qe_attributes: bytes = bytes.fromhex("1500000000000000e700000000000000")
    bound_key: str = "attestation"
    pck: Certificate = Certificate(PCK, PLATFORM_CA, ca=False, serial=77)
    platform_ca: Certificate = Certificate(PLATFORM_CA, ROOT, ca=True, serial=78)
    root: Certificate = Certificate(ROOT, ROOT, ca=True)
    collateral_root: Certificate | None = None
    signer: Certificate = Certificate(TCB_SIGNER, ROOT, ca=False, serial=79)
    tcb: Mapping[str, Any] = field(default_factory=dict)
    qe: Mapping[str, Any] = field(default_factory=dict)
    revoked_by_ca: tuple[int, ...] = ()
    revoked_by_root: tuple[int, ...] = ()
    crl_issued: datetime = NOW - 5 * _DAY
    crl_until: datetime = NOW + 20 * _DAY
    trailing: bytes = b""

    def but(self, **changes: Any) -> FakeIntel:
        return replace(self, **changes)

    @property
    def root_sha256(self) -> str:
        return _built(self.root).fingerprint(hashes.SHA256()).hex()

    @property
    def root_der(self) -> bytes:
        return _built(self.root).public_bytes(Encoding.DER)

    # quote

    def sgx_extension(self) -> bytes:
        tcb = [entry(bytes([2, at + 1]), integer(svn)) for at, svn in enumerate(self.svns)]
        tcb.append(entry(bytes([2, 17]), integer(self.pce_svn)))
        tcb.append(entry(bytes([2, 18]), der(0x04, bytes(self.svns))))
        return der(
            0x30,
            entry(bytes([1]), der(0x04, self.ppid))
            + entry(bytes([2]), der(0x30, b"".join(tcb)))
            + entry(bytes([3]), der(0x04, bytes(2)))
            + entry(bytes([4]), der(0x04, self.fmspc))
            + entry(bytes([5]), der(0x0A, b"\1")),
        )

    def pck_chain(self) -> bytes:
        leaf = replace(self.pck, extension=self.pck.extension or self.sgx_extension())
        return b"".join(_pem(certificate) for certificate in (leaf, self.platform_ca, self.root))

    def body(self) -> bytes:
        sizes = {
            "tee_tcb_svn": 16, "mrseam": 48, "mrsignerseam": 48, "seam_attributes": 8,
            "td_attributes": 8, "xfam": 8, "mrtd": 48, "mrconfigid": 48, "mrowner": 48,
            "mrownerconfig": 48, "rtmr0": 48, "rtmr1": 48, "rtmr2": 48, "rtmr3": 48,
            "report_data": 64,
        }  # fmt: skip
        if self.body_type == 3:
            sizes |= {"tee_tcb_svn2": 16, "mrservicetd": 48}
        values = {name: bytes(size) for name, size in sizes.items()}
        values |= {
            "tee_tcb_svn": bytes([6, 1, 3]) + bytes(13),
            "mrtd": b"\x77" * 48,
            "td_attributes": (1 << 28).to_bytes(8, "little"),
            "xfam": bytes.fromhex("e702060000000000"),
        }
        values |= {"tee_tcb_svn2": values["tee_tcb_svn"]} if self.body_type == 3 else {}
        values |= self.td
        assert all(len(values[name]) == size for name, size in sizes.items()), "a field's size"
        return b"".join(values[name] for name in sizes)

    def qe_report(self) -> bytes:
        auth = bytes(range(32))
        bound = hashlib.sha256(public_bytes(self.bound_key) + auth).digest() + bytes(32)
        return struct.pack(
            "<16s4s28s16s32s32s32s96sHH60s64s",
            bytes(16), bytes(4), bytes(28), self.qe_attributes, b"\x0e" * 32, bytes(32),
            self.qe_mrsigner, bytes(96), self.qe_prod_id, self.qe_svn, bytes(60), bound,
        )  # fmt: skip

    def quote(self) -> bytes:
        header = struct.pack("<HHI4s16s20s", self.version, 2, 0x81, bytes(4), INTEL_VENDOR_ID,
                             bytes(20))  # fmt: skip
        body = self.body()
        if self.version == 5:
            header += struct.pack("<HI", self.body_type, len(body))
        signed, report, chain = header + body, self.qe_report(), self.pck_chain() + b"\0"
        auth = struct.pack("<H", 32) + bytes(range(32))
        qe = report + sign(self.pck.subject, report) + auth
        inner = qe + struct.pack("<HI", 5, len(chain)) + chain
        data = sign("attestation", signed) + public_bytes("attestation")
        data += struct.pack("<HI", 6, len(inner)) + inner
        return signed + struct.pack("<I", len(data)) + data + self.trailing

    # collateral

    def tcb_info(self) -> dict[str, Any]:
        return {
            "id": "TDX",
            "version": 3,
            "issueDate": "2026-02-20T10:00:00Z",
            "nextUpdate": "2026-03-22T10:00:00Z",
            "fmspc": self.fmspc.hex().upper(),
            "pceId": "0000",
            "tcbType": 0,
            "tcbEvaluationDataNumber": 18,
            "tdxModule": _module(),
            "tdxModuleIdentities": [
                _module(id="TDX_03", tcbLevels=[level("UpToDate", isvsvn=3)]),
                _module(
                    id="TDX_01",
                    tcbLevels=[level("UpToDate", isvsvn=5), level("OutOfDate", isvsvn=2)],
                ),
            ],
            "tcbLevels": [platform_level("UpToDate"), platform_level("OutOfDate", pce=5)],
            **self.tcb,
        }

    def qe_identity(self) -> dict[str, Any]:
        return {
            "id": "TD_QE",
            "version": 2,
            "issueDate": "2026-02-20T10:00:00Z",
            "nextUpdate": "2026-03-22T10:00:00Z",
            "tcbEvaluationDataNumber": 18,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": self.qe_mrsigner.hex().upper(),
            "isvprodid": 2,
            "tcbLevels": [level("UpToDate", isvsvn=4), level("OutOfDate", isvsvn=1)],
            **self.qe,
        }

    def _signed(self, what: str, document: dict[str, Any]) -> SignedJson:
        text = json.dumps(document, separators=(",", ":")).encode()
        chain = _pem(self.signer) + _pem(self.collateral_root or self.root)
        return SignedJson(what, text, sign(self.signer.subject, text), chain)

    def collateral(self) -> Collateral:
        return Collateral(
            tcb_info=self._signed("TCB info", self.tcb_info()),
            qe_identity=self._signed("QE identity", self.qe_identity()),
            root_ca_crl=crl(ROOT, self.revoked_by_root, self.crl_issued, self.crl_until),
            pck_crl=crl(PLATFORM_CA, self.revoked_by_ca, self.crl_issued, self.crl_until),
        )

    def evidence(self) -> Evidence:
        return Evidence(Technology.TDX, self.quote(), self.collateral().encode())


@cache
def _built(certificate: Certificate) -> x509.Certificate:
    return certificate.build()


@cache
def _pem(certificate: Certificate) -> bytes:
    return _built(certificate).public_bytes(Encoding.PEM)
