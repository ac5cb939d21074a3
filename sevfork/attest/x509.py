"""X.509 as both makers of processors use it: certificates, chains of them, and revocation lists.

Everything that is used of a certificate is read when it is decoded, so that no later step can fail
on an attacker's bytes; whatever goes wrong becomes one error of ours. How a maker signs is fixed
here and never read from a certificate: that is the attacker's.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from typing import TypeGuard

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from msgspec import Struct

from sevfork.errors import AttestationFailed

# A VCEK's serial number is 0, which RFC 5280 forbids and cryptography warns about at every load.
warnings.filterwarnings(
    "ignore", message="Parsed a serial number", category=CryptographyDeprecationWarning
)

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
PSS_SHA384 = padding.PSS(mgf=padding.MGF1(SHA384()), salt_length=48)
_RSA_BITS = 4096
_PEM = b"-----BEGIN"
_MAX_CHAIN_SIZE = 32768
_TIME = "%Y-%m-%dT%H:%M:%SZ"
# Measured: a flipped bit in a version number raises InvalidVersion, which is not a ValueError, and
# one in a number of a revocation list OverflowError.
_MALFORMED = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


def time_text(at: datetime) -> str:
    """The one way in which a verdict writes a time (UTC)."""
    return f"{at:{_TIME}}"


@contextmanager
def well_formed(what: str) -> Iterator[None]:
    """Turn what ``cryptography`` raises on an attacker's bytes into one error of ours.

    Its words stay out of the message: they are for programmers, and some are a link to a web page.
    """
    try:
        yield
    except _MALFORMED as exc:
        raise AttestationFailed(f"{what} is malformed") from exc


class Scheme(Enum):
    """How the makers sign certificates and revocation lists."""

    AMD = "RSA-4096, PSS with SHA-384, MGF1-SHA-384 and a salt of 48 bytes"
    INTEL = "ECDSA on P-256 with SHA-256"

    def verifies(self, key: PublicKey, signature: bytes, message: bytes) -> bool:
        """Whether the signature is the key's, made in this way and no other."""
        try:
            if self is Scheme.AMD:
                if not isinstance(key, rsa.RSAPublicKey) or key.key_size != _RSA_BITS:
                    return False
                key.verify(signature, message, PSS_SHA384, SHA384())
            else:
                if not _is_on(key, ec.SECP256R1):
                    return False
                key.verify(signature, message, ec.ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True


def ecdsa_verifies(
    key: ec.EllipticCurvePublicKey, r: int, s: int, message: bytes, algorithm: HashAlgorithm
) -> bool:
    """Whether r and s, which reports and quotes have without ASN.1, sign the message."""
    try:
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(algorithm))
    except InvalidSignature:
        return False
    return True


class Validity(Struct, frozen=True):
    """A span of time, both ends included; one without an end covers nothing."""

    start: datetime
    end: datetime | None

    def covers(self, at: datetime) -> bool:
        return self.end is not None and self.start <= at <= self.end

    def __str__(self) -> str:
        return f"from {time_text(self.start)} to {time_text(self.end) if self.end else 'nothing'}"


class Certificate(Struct, frozen=True):
    """One certificate. ``extensions`` are those that X.509 does not know: raw bytes by OID.

    ``common_name`` is empty if there is none, or more than one. ``may_issue``: basic constraints
    and key usage both say that it may sign certificates.
    """

    der: bytes
    common_name: str
    subject: bytes
    issuer: bytes
    serial: int
    validity: Validity
    key: PublicKey
    may_issue: bool
    extensions: Mapping[str, bytes]
    parsed: x509.Certificate

    @classmethod
    def decode(cls, data: bytes) -> Certificate:
        """One certificate, DER or PEM; raise AttestationFailed for anything else."""
        with well_formed("a certificate"):
            return _read_certificate(_load_one(data))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the DER in hexadecimal, the form in which a policy pins a root."""
        return hashlib.sha256(self.der).hexdigest()

    def issued_by(self, issuer: Certificate, scheme: Scheme) -> bool:
        """True if the names match and the issuer's key signed this in the maker's way."""
        signature, signed = self.parsed.signature, self.parsed.tbs_certificate_bytes
        if not scheme.verifies(issuer.key, signature, signed):
            return False
        try:
            # The signature was checked; this adds that names match, and that the algorithm named
            # outside of what is signed is the one inside.
            self.parsed.verify_directly_issued_by(issuer.parsed)
        except (InvalidSignature, *_MALFORMED):
            return False
        return True


class RevocationList(Struct, frozen=True):
    """A CRL. ``critical``: it has extensions that must not be passed over (a delta, a subset)."""

    der: bytes
    issuer: bytes
    number: int | None
    validity: Validity
    revoked: frozenset[int]
    critical: bool
    parsed: x509.CertificateRevocationList

    @classmethod
    def decode(cls, data: bytes) -> RevocationList:
        """One CRL, DER or PEM; raise AttestationFailed for anything else."""
        with well_formed("a revocation list"):
            pem = data.lstrip().startswith(_PEM)
            return _read_list(x509.load_pem_x509_crl(data) if pem else x509.load_der_x509_crl(data))

    def verify(self, issuer: Certificate, scheme: Scheme) -> None:
        """Raise AttestationFailed unless it is the issuer's, whole, and signed in its way."""
        name = issuer.common_name
        if self.issuer != issuer.subject:
            raise AttestationFailed(f"it is not of '{name}'")
        if self.critical:
            raise AttestationFailed("it has critical extensions, which are unknown")
        if not self._is_signed_by(issuer, scheme):
            raise AttestationFailed(f"it is not signed by '{name}'")

    def _is_signed_by(self, issuer: Certificate, scheme: Scheme) -> bool:
        signature, signed = self.parsed.signature, self.parsed.tbs_certlist_bytes
        if not scheme.verifies(issuer.key, signature, signed):
            return False
        try:
            return self.parsed.is_signature_valid(issuer.key)
        except _MALFORMED:
            return False

    def names(self, certificate: Certificate) -> bool:
        """Whether a certificate of this list's issuer is on it."""
        return certificate.serial in self.revoked


class Chain(Struct, frozen=True):
    """Certificates from a leaf to a root; ``what`` names the chain in messages."""

    what: str
    certificates: tuple[Certificate, ...]

    @classmethod
    def decode(cls, what: str, pem: bytes) -> Chain:
        """From PEM text; NUL bytes may end it (measured: quotes come with and without one)."""
        if len(pem) > _MAX_CHAIN_SIZE:
            raise AttestationFailed(f"{what}: {len(pem)} bytes, more than {_MAX_CHAIN_SIZE}")
        with well_formed(what):
            loaded = x509.load_pem_x509_certificates(pem.rstrip(b"\0"))
            return cls(what, tuple(_read_certificate(certificate) for certificate in loaded))

    @property
    def leaf(self) -> Certificate:
        return self.certificates[0]

    @property
    def root(self) -> Certificate:
        return self.certificates[-1]

    @property
    def validity(self) -> Validity:
        """The span in which every certificate is valid."""
        starts = [certificate.validity.start for certificate in self.certificates]
        ends = [certificate.validity.end for certificate in self.certificates]
        return Validity(max(starts), min(end for end in ends if end is not None))

    def leaf_key(self, curve: type[ec.EllipticCurve]) -> ec.EllipticCurvePublicKey:
        """The leaf's public key; raise AttestationFailed if it is not on this curve."""
        key = self.leaf.key
        if not _is_on(key, curve):
            raise AttestationFailed(f"{self.what}: the leaf's key is not on {curve.name}")
        return key

    def links(self) -> Iterator[tuple[Certificate, Certificate]]:
        """Each certificate with its issuer, leaf first; the root is its own."""
        issuers = self.certificates[1:] + self.certificates[-1:]
        return zip(self.certificates, issuers, strict=True)

    def verify(self, names: Sequence[Collection[str]], scheme: Scheme) -> None:
        """Check the number of certificates, their names, what each may do, and each signature.

        This says that the chain hangs together down from its root; whether that root is to be
        believed is for the caller, as are the time and revocation.
        """
        if len(self.certificates) != len(names):
            counts = f"{len(self.certificates)} certificates, not {len(names)}"
            raise AttestationFailed(f"{self.what}: {counts}")
        for certificate, allowed in zip(self.certificates, names, strict=True):
            if certificate.common_name not in allowed:
                wanted = "' or '".join(allowed)
                other = f"'{certificate.common_name}', not '{wanted}'"
                raise AttestationFailed(f"{self.what}: a certificate is {other}")
        if self.leaf.may_issue:
            raise AttestationFailed(f"{self.what}: the leaf is a certificate authority")
        for certificate, issuer in self.links():
            self._verify_link(certificate, issuer, scheme)

    def _verify_link(self, certificate: Certificate, issuer: Certificate, scheme: Scheme) -> None:
        if not issuer.may_issue:
            raise AttestationFailed(f"{self.what}: '{issuer.common_name}' may not issue")
        if not certificate.issued_by(issuer, scheme):
            link = f"'{certificate.common_name}' is not signed by '{issuer.common_name}'"
            raise AttestationFailed(f"{self.what}: {link}")


def _is_on(key: PublicKey, curve: type[ec.EllipticCurve]) -> TypeGuard[ec.EllipticCurvePublicKey]:
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, curve)


def _load_one(data: bytes) -> x509.Certificate:
    if not data.lstrip().startswith(_PEM):
        return x509.load_der_x509_certificate(data)
    certificates = x509.load_pem_x509_certificates(data)
    if len(certificates) != 1:
        raise AttestationFailed(f"want one certificate, got {len(certificates)}")
    return certificates[0]


def _read_certificate(certificate: x509.Certificate) -> Certificate:
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise AttestationFailed("a certificate has a key that is neither RSA nor EC")
    values = [extension.value for extension in certificate.extensions]
    unknown = [value for value in values if isinstance(value, x509.UnrecognizedExtension)]
    return Certificate(
        der=certificate.public_bytes(Encoding.DER),
        common_name=_common_name(certificate.subject),
        subject=certificate.subject.public_bytes(),
        issuer=certificate.issuer.public_bytes(),
        serial=certificate.serial_number,
        validity=Validity(certificate.not_valid_before_utc, certificate.not_valid_after_utc),
        key=key,
        may_issue=_may_issue(values),
        extensions={value.oid.dotted_string: value.value for value in unknown},
        parsed=certificate,
    )


def _read_list(crl: x509.CertificateRevocationList) -> RevocationList:
    number = [e.value.crl_number for e in crl.extensions if isinstance(e.value, x509.CRLNumber)]
    return RevocationList(
        der=crl.public_bytes(Encoding.DER),
        issuer=crl.issuer.public_bytes(),
        number=number[0] if number else None,
        validity=Validity(crl.last_update_utc, crl.next_update_utc),
        revoked=frozenset(entry.serial_number for entry in crl),
        critical=any(extension.critical for extension in crl.extensions),
        parsed=crl,
    )


def _common_name(name: x509.Name) -> str:
    values = [a.value for a in name if a.oid == x509.NameOID.COMMON_NAME]
    return values[0] if len(values) == 1 and isinstance(values[0], str) else ""


def _may_issue(extensions: Sequence[x509.ExtensionType]) -> bool:
    basic = [value.ca for value in extensions if isinstance(value, x509.BasicConstraints)]
    usage = [value.key_cert_sign for value in extensions if isinstance(value, x509.KeyUsage)]
    return basic == [True] and usage == [True]
