"""The simulated secure processor: SNP reports that are right in every byte and protect nothing.

Host only; no guest image has this module. Its chain is made on first use under a root of its own.
The product name is "Simulated" and the CPUID says family 0, so that none of it can pass for
genuine. The root's and the intermediate's private keys are dropped once the leaf is signed: what
is kept on disk can sign reports, and nothing else.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from sevfork.attest.evidence import Evidence
from sevfork.attest.snp.certificates import (
    OID_HWID,
    OID_PRODUCT,
    OID_STRUCT_VERSION,
    OID_TCB,
    CertificateTable,
    Endorsement,
)
from sevfork.attest.snp.report import REPORT_SIZE, SIGNED_SIZE, Product, Tcb
from sevfork.attest.x509 import PSS_SHA384, Certificate
from sevfork.errors import AttestationFailed, HostCannot, UsageError
from sevfork.technology import Technology

ORGANIZATION = "sevfork, simulated, not confidential"
# Fixed, and long: a guest's clock is not worth much, and this chain protects nothing.
VALID_FROM, VALID_UNTIL = datetime(2020, 1, 1, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)
SIMULATED_TCB = Tcb(bootloader=1, tee=0, snp=1, microcode=1)
_FILE = "simulated-processor.pem"
_FIRMWARE = bytes([0, 55, 1, 0])  # build, minor, major, reserved: ABI 1.55
_NO_MIGRATION_AGENT = b"\xff" * 32


def build_report(
    *,
    policy: int,
    report_data: bytes,
    measurement: bytes,
    host_data: bytes,
    report_id: bytes,
    chip_id: bytes,
    tcb: bytes,
    cpuid: bytes,
    version: int = 3,
) -> bytes:
    """The signed part of a report, 0x2A0 bytes; what is not named is as for a plain guest."""
    body = bytearray(SIGNED_SIZE)
    fields = [
        (0x00, 4, version.to_bytes(4, "little")),
        (0x08, 8, policy.to_bytes(8, "little")),
        (0x34, 4, (1).to_bytes(4, "little")),
        (0x50, 64, report_data),
        (0x90, 48, measurement),
        (0xC0, 32, host_data),
        (0x140, 32, report_id),
        (0x160, 32, _NO_MIGRATION_AGENT),
        (0x188, 3, cpuid),
        (0x1A0, 64, chip_id.ljust(64, b"\0")),
        (0x1E8, 8, _FIRMWARE * 2),
        *((offset, 8, tcb) for offset in (0x38, 0x180, 0x1E0, 0x1F0)),
    ]
    for offset, size, value in fields:
        if len(value) != size:
            raise UsageError(f"a report's field at {offset:#x} has {len(value)} bytes, want {size}")
        body[offset : offset + size] = value
    return bytes(body)


def sign_report(body: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A whole report: ECDSA P-384 with SHA-384 over the body, R and S little-endian in 72 bytes."""
    r, s = decode_dss_signature(key.sign(body, ec.ECDSA(SHA384())))
    signature = r.to_bytes(72, "little") + s.to_bytes(72, "little")
    return (body + signature).ljust(REPORT_SIZE, b"\0")


def issue_authority(
    common_name: str,
    public_key: rsa.RSAPublicKey,
    issuer: x509.Name | None,
    issuer_key: rsa.RSAPrivateKey,
) -> x509.Certificate:
    """An ARK (``issuer`` is None: itself) or an ASK, with the extensions that AMD's have."""
    subject = _name(common_name)
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=issuer is None,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        _builder(subject, issuer or subject, public_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0 if issuer else None), True)
        .add_extension(usage, True)
    )
    return builder.sign(issuer_key, SHA384(), rsa_padding=PSS_SHA384)


def issue_endorsement(
    common_name: str,
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    issuer_key: rsa.RSAPrivateKey,
    extensions: Mapping[str, bytes],
    valid: tuple[datetime, datetime] = (VALID_FROM, VALID_UNTIL),
) -> x509.Certificate:
    """A VCEK or VLEK: ``extensions`` are AMD's own, by OID, as raw bytes."""
    builder = _builder(_name(common_name), issuer, public_key, valid)
    for oid, value in extensions.items():
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(issuer_key, SHA384(), rsa_padding=PSS_SHA384)


def endorsement_extensions(product_name: str, tcb: Tcb, hardware_id: bytes) -> dict[str, bytes]:
    """AMD's extensions of a VCEK: DER for product and TCB, and raw bytes for the hardware id."""
    extensions = {OID_STRUCT_VERSION: b"\x02\x01\x00"}
    extensions[OID_PRODUCT] = bytes([0x16, len(product_name)]) + product_name.encode("ascii")
    for name, oid in OID_TCB.items():
        number = getattr(tcb, name)
        if number is not None:
            digits = number.to_bytes(2 if number > 127 else 1, "big")
            extensions[oid] = bytes([0x02, len(digits)]) + digits
    return {**extensions, OID_HWID: hardware_id}


@dataclass(frozen=True, repr=False)
class SimulatedProcessor:
    """A chip with its key and its certificates; makes evidence for whatever it is told."""

    key: ec.EllipticCurvePrivateKey
    certificates: CertificateTable
    chip_id: bytes

    @property
    def root_fingerprint(self) -> str:
        """SHA-256 over the DER of its ARK, in hexadecimal: what a policy lists to accept it."""
        return Certificate.decode(self.certificates.ark).fingerprint

    @classmethod
    def load(cls, directory: Path) -> SimulatedProcessor | None:
        """The processor kept in ``directory``, None if there is none; HostCannot if damaged."""
        path = directory / _FILE
        try:
            return cls._decode(path) if path.exists() else None
        except OSError as exc:
            raise HostCannot(f"the simulated processor's file cannot be used: {exc}") from exc

    @classmethod
    def load_or_create(cls, directory: Path) -> SimulatedProcessor:
        """The processor kept in ``directory``, made there on first use.

        Two processes may race: each makes its own, one file wins whole, and both use that one.
        Raise HostCannot if the file is damaged or cannot be written.
        """
        processor = cls.load(directory)
        if processor is None:
            path = directory / _FILE
            try:
                # First, for the keys take a second.
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                _publish(_create(), path)
                return cls._decode(path)
            except OSError as exc:
                raise HostCannot(f"'{path}' cannot be written: {exc}") from exc
        return processor

    @classmethod
    def _decode(cls, path: Path) -> SimulatedProcessor:
        content = path.read_bytes()
        try:
            key = load_pem_private_key(content, None)
            vcek, ask, ark = (
                certificate.public_bytes(Encoding.DER)
                for certificate in x509.load_pem_x509_certificates(content)
            )
            chip = Endorsement.decode(Certificate.decode(vcek).extensions)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise ValueError("not a simulated processor")
        except (ValueError, AttestationFailed) as exc:
            hint = "remove it; domains made with it can no longer be forked"
            raise HostCannot(f"'{path}' is damaged", hint=hint) from exc
        return cls(key, CertificateTable(vcek=vcek, ask=ask, ark=ark), chip.hardware_id or b"")

    def report(
        self,
        measurement: bytes,
        host_data: bytes,
        report_id: bytes,
        report_data: bytes,
        policy: int = 0x30000,
    ) -> Evidence:
        """Evidence as a real part's firmware would sign it; 48, 32, 32 and 64 bytes, VMPL 0."""
        body = build_report(
            policy=policy,
            report_data=report_data,
            measurement=measurement,
            host_data=host_data,
            report_id=report_id,
            chip_id=self.chip_id,
            tcb=SIMULATED_TCB.encode(),
            cpuid=bytes(3),
        )
        report = sign_report(body, self.key)
        return Evidence(Technology.SIMULATED, report, self.certificates.encode())


def _create() -> bytes:
    """A new key and chain as PEM: private key, VCEK, ASK, ARK."""
    ark_key, ask_key = (rsa.generate_private_key(65537, 4096) for _ in range(2))
    key = ec.generate_private_key(ec.SECP384R1())
    product = Product.SIMULATED.value
    ark = issue_authority(f"ARK-{product}", ark_key.public_key(), None, ark_key)
    ask = issue_authority(f"SEV-{product}", ask_key.public_key(), ark.subject, ark_key)
    extensions = endorsement_extensions(product, SIMULATED_TCB, secrets.token_bytes(64))
    vcek = issue_endorsement("SEV-VCEK", key.public_key(), ask.subject, ask_key, extensions)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + b"".join(cert.public_bytes(Encoding.PEM) for cert in (vcek, ask, ark))


def _publish(content: bytes, path: Path) -> None:
    """Write ``path`` whole or not at all, readable by its owner only; an existing one is kept."""
    with TemporaryDirectory(dir=path.parent, prefix=".new-") as scratch:
        temporary = Path(scratch) / path.name
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            # A link, not a rename: it never replaces what another process has published meanwhile.
            path.hardlink_to(temporary)
        except FileExistsError:
            return


def _name(common_name: str) -> x509.Name:
    pairs = ((NameOID.ORGANIZATION_NAME, ORGANIZATION), (NameOID.COMMON_NAME, common_name))
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in pairs])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    valid: tuple[datetime, datetime] = (VALID_FROM, VALID_UNTIL),
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
    )
