"""From a quote's bytes to Intel's root: what signs what on the way.

Root CA -> platform or processor CA -> PCK certificate -> QE report -> attestation key -> quote.
Each step is a function that raises ``AttestationFailed`` with the reason; nothing here knows of a
policy.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from sevfork.attest.tdx.quote import QeReport, Quote, QuoteSignature
from sevfork.attest.x509 import Chain, ecdsa_verifies, well_formed
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

_QE_DEBUG = 0x02


def is_signed_by(key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes) -> bool:
    """Whether the 64-byte big-endian r||s is the key's ECDSA signature (SHA-256) of message."""
    if len(signature) != 64:
        return False
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    return ecdsa_verifies(key, r, s, message, SHA256())


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
    key = pck.leaf_key(ec.SECP256R1)
    if not is_signed_by(key, signature.qe_report_signature, signature.qe_report.raw):
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
