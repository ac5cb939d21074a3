"""The hybrid key exchange, and the only way from its secrets to keys.

Erasing a key means dropping the last reference to it: OpenSSL overwrites the private keys it holds
when it frees them, while Python cannot overwrite ``bytes``. Those remain in the agent's encrypted
memory until it is used again, and the agent is never in what is captured.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM1024PrivateKey, MLKEM1024PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sevfork.attest.verdict import VerifiedReport
from sevfork.errors import AttestationFailed, NotAuthentic
from sevfork.wire.lp import lp

_KEY_SIZE = 32
_GRANT_LABEL = b"sevfork/1 grant"
_CONFIRM_LABEL = b"sevfork/1 confirm"
_EVENT_LABEL = b"sevfork/1 event"
_PARENT_EVENT_LABEL = b"sevfork/1 parent event"


@dataclass(frozen=True)
class SharedSecrets:
    """What both sides can compute early, and which is no key yet."""

    ecdh: bytes = field(repr=False)
    kem: bytes = field(repr=False)


class OfferKeys:
    """The parent's private half of one OFFER."""

    def __init__(self) -> None:
        self._ecdh = ec.generate_private_key(ec.SECP384R1())
        self._kem = MLKEM1024PrivateKey.generate()

    @property
    def share(self) -> bytes:
        return _point(self._ecdh)

    @property
    def encapsulation_key(self) -> bytes:
        return self._kem.public_key().public_bytes_raw()

    def agree(self, share: bytes, ciphertext: bytes) -> SharedSecrets:
        """Raise NotAuthentic if the child's share is no point of the curve.

        A wrong ML-KEM ciphertext yields another secret (implicit rejection), so no key will match.
        """
        return SharedSecrets(_exchange(self._ecdh, share), self._kem.decapsulate(ciphertext))


@dataclass(frozen=True)
class JoinKeys:
    """The child's answer to an OFFER: public parts and the secrets; the private key is gone."""

    share: bytes
    ciphertext: bytes
    secrets: SharedSecrets

    @classmethod
    def answer(cls, share: bytes, encapsulation_key: bytes) -> JoinKeys:
        """Raise NotAuthentic if the OFFER's public keys are none."""
        private = ec.generate_private_key(ec.SECP384R1())
        ecdh = _exchange(private, share)
        try:
            kem, ciphertext = MLKEM1024PublicKey.from_public_bytes(encapsulation_key).encapsulate()
        except ValueError as exc:
            raise NotAuthentic("handshake: an ML-KEM key that is none") from exc
        return cls(_point(private), ciphertext, SharedSecrets(ecdh, kem))


class Box:
    """AES-256-GCM for one direction and use: sequence numbers without gaps, AAD is T2.

    A side either seals or opens with a box, never both.
    """

    def __init__(self, key: bytes, t2: bytes) -> None:
        self._cipher, self._t2 = AESGCM(key), t2
        self.sequence = 0

    def seal(self, plaintext: bytes) -> bytes:
        nonce, self.sequence = _nonce(self.sequence), self.sequence + 1
        return self._cipher.encrypt(nonce, plaintext, self._t2)

    def open(self, sealed: bytes) -> bytes:
        """The plaintext of the next box in order; raise NotAuthentic for any other."""
        try:
            plaintext = self._cipher.decrypt(_nonce(self.sequence), sealed, self._t2)
        except InvalidTag as exc:
            raise NotAuthentic("handshake: a box that does not open") from exc
        self.sequence += 1
        return plaintext


@dataclass(frozen=True)
class LaterBoxes:
    """The boxes for what follows the GRANT. None of them opens the GRANT."""

    confirm: Box
    event: Box
    parent_event: Box


@dataclass(frozen=True)
class Boxes:
    """One box for each direction and use: the GRANT's, to be let go of once it is used."""

    grant: Box
    later: LaterBoxes


def derive_boxes(
    peer: VerifiedReport, *, report_data: bytes, secrets: SharedSecrets, t2: bytes
) -> Boxes:
    """K and its keys. Whoever has no VerifiedReport of the other side cannot call this.

    ``report_data`` is what this transcript wants the peer to have signed. That it did is a part of
    the verification already; here it ties the report that was verified to these secrets.
    """
    if type(peer) is not VerifiedReport or not hmac.compare_digest(peer.report_data, report_data):
        raise AttestationFailed("handshake: the verified report is not of this exchange")
    ikm = lp(secrets.ecdh, secrets.kem)
    key = HKDF.extract(SHA384(), t2, ikm)
    later = LaterBoxes(
        confirm=_box(key, _CONFIRM_LABEL, t2),
        event=_box(key, _EVENT_LABEL, t2),
        parent_event=_box(key, _PARENT_EVENT_LABEL, t2),
    )
    return Boxes(_box(key, _GRANT_LABEL, t2), later)


def _box(key: bytes, label: bytes, t2: bytes) -> Box:
    return Box(HKDFExpand(SHA384(), _KEY_SIZE, label).derive(key), t2)


def _nonce(sequence: int) -> bytes:
    return bytes(4) + sequence.to_bytes(8, "big")


def _point(private: ec.EllipticCurvePrivateKey) -> bytes:
    public = private.public_key()
    return public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _exchange(private: ec.EllipticCurvePrivateKey, share: bytes) -> bytes:
    try:
        peer = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), share)
        return private.exchange(ec.ECDH(), peer)
    except ValueError as exc:
        raise NotAuthentic("handshake: a key share that is no point of P-384") from exc
