"""From a quote's bytes to Intel's root: every signature on the way.

Root CA -> platform or processor CA -> PCK certificate -> QE report -> attestation key -> quote.
Each step is a function that raises ``AttestationFailed`` with the reason; nothing here knows of a
policy.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from sevfork.attest.tdx.quote import QeReport, Quote, QuoteSignature
from sevfork.errors import AttestationFailed

INTEL_ROOT_SHA256 = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
INTEL_QE_MRSIGNER = bytes.fromhex(
    "dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5"
)
INTEL_TD_QE_PROD_ID = 2

# The common names of each chain, leaf first. A TCB signing certificate must never do as a PCK
# certificate, nor the other way round: both end at the same root.
_ROOT = ("Intel SGX Root CA",)
_PCK_CA = ("Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA")
PCK_CHAIN = (("Intel SGX PCK Certificate",), _PCK_CA, _ROOT)
TCB_SIGNING_CHAIN = (("Intel SGX TCB Signing",), _ROOT)

_MAX_PEM_SIZE = 32768
_QE_DEBUG = 0x02


# Measured: a flipped bit in a version number raises InvalidVersion, which is not a ValueError.
_MALFORMED = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@contextmanager
def well_formed(what: str) -> Iterator[None]:
    """Turn what ``cryptography`` raises on malformed certificates (it parses lazily) into ours."""
    try:
        yield
    except _MALFORMED as exc:
        raise AttestationFailed(f"{what} is malformed: {exc}") from exc


def is_signed_by(key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes) -> bool:
    """Whether the 64-byte big-endian r||s is the key's ECDSA signature (SHA-256) of message."""
    if len(signature) != 64:
        return False
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


# Certificate chains


@dataclass(frozen=True)
class Chain:
    """Certificates from a leaf to a root; ``what`` names the chain in messages."""

    what: str
    certificates: tuple[x509.Certificate, ...]

    @classmethod
    def load(cls, what: str, pem: bytes) -> Chain:
        """Parse PEM text; NUL bytes may end it (measured: quotes come with and without one)."""
        if len(pem) > _MAX_PEM_SIZE:
            raise AttestationFailed(f"{what}: {len(pem)} bytes, more than {_MAX_PEM_SIZE}")
        with well_formed(what):
            return cls(what, tuple(x509.load_pem_x509_certificates(pem.rstrip(b"\0"))))

    @property
    def leaf(self) -> x509.Certificate:
        return self.certificates[0]

    @property
    def root_sha256(self) -> str:
        """Hex SHA-256 of the root's DER, the form in which a policy pins it."""
        return self.certificates[-1].fingerprint(hashes.SHA256()).hex()

    @property
    def leaf_key(self) -> ec.EllipticCurvePublicKey:
        """The leaf's public key, on P-256 or AttestationFailed."""
        with well_formed(self.what):
            key = self.leaf.public_key()
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
            return key
        raise AttestationFailed(f"{self.what}: the leaf's key is not one on P-256")

    def verify(self, names: Sequence[Collection[str]]) -> None:
        """Check the number of certificates, their names, what each may do, and each signature.

        This says that the chain hangs together down from its root; whether that root is to be
        believed is for the caller, as are the time and revocation.
        """
        if len(self.certificates) != len(names):
            got, wanted = len(self.certificates), len(names)
            raise AttestationFailed(f"{self.what}: {got} certificates, not {wanted}")
        with well_formed(self.what):
            for certificate, allowed in zip(self.certificates, names, strict=True):
                self._check_name(certificate, allowed)
            self._check_issuers()

    def _check_name(self, certificate: x509.Certificate, allowed: Collection[str]) -> None:
        name = common_name(certificate)
        if name not in allowed:
            wanted = "' or '".join(allowed)
            raise AttestationFailed(f"{self.what}: a certificate is '{name}', not '{wanted}'")

    def _check_issuers(self) -> None:
        if _is_ca(self.leaf):
            raise AttestationFailed(f"{self.what}: the leaf is a certificate authority")
        issuers = self.certificates[1:] + self.certificates[-1:]
        for certificate, issuer in zip(self.certificates, issuers, strict=True):
            if not _is_ca(issuer):
                raise AttestationFailed(f"{self.what}: '{common_name(issuer)}' may not issue")
            try:
                certificate.verify_directly_issued_by(issuer)
            except InvalidSignature as exc:
                names = f"'{common_name(certificate)}' is not signed by '{common_name(issuer)}'"
                raise AttestationFailed(f"{self.what}: {names}") from exc

    @property
    def validity(self) -> tuple[datetime, datetime]:
        """The time span (aware, both ends included) in which every certificate is valid."""
        with well_formed(self.what):
            starts = [certificate.not_valid_before_utc for certificate in self.certificates]
            ends = [certificate.not_valid_after_utc for certificate in self.certificates]
        return max(starts), min(ends)


def common_name(certificate: x509.Certificate) -> str:
    """The subject's one common name; empty when there is none, or more than one."""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def _is_ca(certificate: x509.Certificate) -> bool:
    """Whether basic constraints and key usage both say that it may sign certificates."""
    extensions = certificate.extensions
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return constraints.ca and usage.key_cert_sign


# The quote's own signatures


def verify_quote_signature(quote: Quote) -> None:
    """Check the attestation key's signature over header and body."""
    x, y = quote.signature.attestation_key[:32], quote.signature.attestation_key[32:]
    with well_formed("tdx quote: the attestation key"):
        key = ec.EllipticCurvePublicNumbers(
            int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1()
        ).public_key()
    if not is_signed_by(key, quote.signature.signature, quote.signed):
        raise AttestationFailed("tdx quote: the signature is not the attestation key's")


def verify_attestation_key_binding(signature: QuoteSignature) -> None:
    """Check that the QE vouches for the attestation key: SHA-256(key || auth data) || 32 zeros."""
    hashed = signature.attestation_key + signature.qe_authentication_data
    wanted = hashlib.sha256(hashed).digest() + bytes(32)
    if not hmac.compare_digest(wanted, signature.qe_report.report_data):
        raise AttestationFailed("tdx quote: the QE report does not name this attestation key")


def verify_qe_report(signature: QuoteSignature, pck: Chain) -> None:
    """Check the PCK key's signature over the quoting enclave's report."""
    if not is_signed_by(pck.leaf_key, signature.qe_report_signature, signature.qe_report.raw):
        raise AttestationFailed("tdx quote: the QE report's signature is not the PCK certificate's")


def verify_qe_is_intels(report: QeReport) -> None:
    """Check what is known of Intel's TD quoting enclave without any collateral."""
    if report.mrsigner != INTEL_QE_MRSIGNER:
        raise AttestationFailed(
            f"quoting enclave: mrsigner is {report.mrsigner.hex()}, not Intel's"
        )
    if report.isv_prod_id != INTEL_TD_QE_PROD_ID:
        raise AttestationFailed(
            f"quoting enclave: product id is {report.isv_prod_id}, not {INTEL_TD_QE_PROD_ID}"
        )
    if report.attributes[0] & _QE_DEBUG:
        raise AttestationFailed("quoting enclave: it is a debug enclave")
