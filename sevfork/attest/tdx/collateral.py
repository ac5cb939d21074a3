"""Intel's collateral: TCB info, the quoting enclave's identity and two CRLs, not believed as yet.

It comes from anyone, the host included. What makes it true is Intel's signature over the raw JSON
text, and what makes it current is the time it is checked at. Nothing is read from a document before
its signature has verified.

One file holds it all, as JSON in the form that dcap-qvl and others use (``QuoteCollateralV3``).
Source: Intel PCS API v4 (``tcb``, ``qe/identity``, ``pckcrl``, ``rootcacrl``).
"""

from __future__ import annotations

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Struct

from sevfork.attest.tdx.chain import TCB_SIGNING_CHAIN, is_signed_by
from sevfork.attest.tdx.tcb import QeIdentity, TcbInfo, decode_json, unhex
from sevfork.attest.x509 import Chain, Scheme
from sevfork.errors import AttestationFailed

# Measured: 16 KB for a platform CA's. Evidence carries at most 64 KiB beside the quote.
MAX_COLLATERAL_SIZE = 65536


class SignedJson(Struct, frozen=True):
    """A document's exact text, Intel's 64-byte signature (r||s) and the PEM chain of its signer."""

    what: str
    text: bytes
    signature: bytes
    issuer_chain: bytes

    def verify(self) -> Chain:
        """Check chain and signature; the root, the time and revocation are left to the caller."""
        chain = Chain.decode(f"{self.what}'s signing chain", self.issuer_chain)
        chain.verify(TCB_SIGNING_CHAIN, Scheme.INTEL)
        if not is_signed_by(chain.leaf_key(ec.SECP256R1), self.signature, self.text):
            raise AttestationFailed(
                f"{self.what} was changed: Intel's signature is of another text"
            )
        return chain

    def as_tcb_info(self) -> TcbInfo:
        """Parse TCB info; only ever after ``verify``."""
        document = decode_json(self.what, self.text, TcbInfo)
        document.verify_kind()
        return document

    def as_qe_identity(self) -> QeIdentity:
        """Parse a QE identity; only ever after ``verify``."""
        document = decode_json(self.what, self.text, QeIdentity)
        document.verify_kind()
        return document


class _CollateralFile(msgspec.Struct, frozen=True):
    """Other fields are passed over: Intel's signatures cover all that is believed."""

    tcb_info: str
    tcb_info_signature: str
    tcb_info_issuer_chain: str
    qe_identity: str
    qe_identity_signature: str
    qe_identity_issuer_chain: str
    root_ca_crl: str
    pck_crl: str
    # Not used: CRL and PCK certificate are checked with the chain that the quote itself carries.
    pck_crl_issuer_chain: str = ""
    pck_certificate_chain: str | None = None


class Collateral(Struct, frozen=True):
    """Everything of Intel's that the verdict on one quote needs; nothing is verified yet."""

    tcb_info: SignedJson
    qe_identity: SignedJson
    root_ca_crl: bytes  # DER, as is the next
    pck_crl: bytes

    @classmethod
    def decode(cls, data: bytes) -> Collateral:
        """Parse the JSON file; AttestationFailed when it is not one."""
        if len(data) > MAX_COLLATERAL_SIZE:
            raise AttestationFailed(f"collateral has more than {MAX_COLLATERAL_SIZE} bytes")
        file = decode_json("collateral", data, _CollateralFile)
        return cls(
            _signed("TCB info", file.tcb_info, file.tcb_info_signature, file.tcb_info_issuer_chain),
            _signed(
                "QE identity",
                file.qe_identity,
                file.qe_identity_signature,
                file.qe_identity_issuer_chain,
            ),
            unhex("collateral: root_ca_crl", file.root_ca_crl),
            unhex("collateral: pck_crl", file.pck_crl),
        )

    def encode(self) -> bytes:
        """The JSON file that ``decode`` reads."""
        tcb, qe = self.tcb_info, self.qe_identity
        file = _CollateralFile(
            tcb_info=tcb.text.decode(),
            tcb_info_signature=tcb.signature.hex(),
            tcb_info_issuer_chain=tcb.issuer_chain.decode(),
            qe_identity=qe.text.decode(),
            qe_identity_signature=qe.signature.hex(),
            qe_identity_issuer_chain=qe.issuer_chain.decode(),
            root_ca_crl=self.root_ca_crl.hex(),
            pck_crl=self.pck_crl.hex(),
        )
        return msgspec.json.encode(file)


def _signed(what: str, text: str, signature: str, chain: str) -> SignedJson:
    octets = unhex(f"{what}'s signature", signature, 64)
    return SignedJson(what, text.encode(), octets, chain.encode())
