"""The hybrid key exchange, and the only way from its secrets to keys.

Erasing a key means dropping the last reference to it: OpenSSL overwrites the private keys it holds
when it frees them, while Python cannot overwrite ``bytes``. Those remain in the agent's encrypted
memory until it is used again, and the agent is never in what is captured.
"""

from __future__ import annotations

import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM1024PrivateKey, MLKEM1024PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Struct

from sevfork.attest.verdict import VerifiedReport
from sevfork.errors import AttestationFailed, NotAuthentic
from sevfork.unshown import Unshown
from sevfork.wire.lp import lp

_KEY_SIZE = 32
_GRANT_LABEL = b"sevfork/1 grant"
_CONFIRM_LABEL = b"sevfork/1 confirm"
_EVENT_LABEL = b"sevfork/1 event"
_PARENT_EVENT_LABEL = b"sevfork/1 parent event"
_UPDATE_LABEL = b"sevfork/1 update"
_RESUME_LABEL = b"sevfork/1 resume"
_ACTIVATE_LABEL = b"sevfork/1 activate"


class SharedSecrets(Unshown, Struct, frozen=True, weakref=True):
    """What both sides can compute early, and which is no key yet."""

    ecdh: bytes
    kem: bytes


class EcdhKey:
    """An ephemeral P-384 key, for one exchange."""

    def __init__(self) -> None:
        self._private = ec.generate_private_key(ec.SECP384R1())

    @property
    def share(self) -> bytes:
        """97 bytes, an uncompressed point."""
        public = self._private.public_key()
        return public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def agree(self, share: bytes) -> bytes:
        """48 bytes; raise NotAuthentic if the other side's share is no point of the curve."""
        try:
            peer = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), share)
            return self._private.exchange(ec.ECDH(), peer)
        except ValueError as exc:
            raise NotAuthentic("handshake: a key share that is no point of P-384") from exc


class OfferKeys:
    """The parent's private half of one OFFER."""

    def __init__(self) -> None:
        self._ecdh = EcdhKey()
        self._kem = MLKEM1024PrivateKey.generate()

    @property
    def share(self) -> bytes:
        return self._ecdh.share

    @property
    def encapsulation_key(self) -> bytes:
        return self._kem.public_key().public_bytes_raw()

    def agree(self, share: bytes, ciphertext: bytes) -> SharedSecrets:
        """Raise NotAuthentic if the child's share is no point of the curve.

        A wrong ML-KEM ciphertext yields another secret (implicit rejection), so no key will match.
        """
        return SharedSecrets(self._ecdh.agree(share), self._kem.decapsulate(ciphertext))


class JoinKeys(Struct, frozen=True):
    """The child's answer to an OFFER: public parts and the secrets; the private key is gone."""

    share: bytes
    ciphertext: bytes
    secrets: SharedSecrets

    @classmethod
    def answer(cls, share: bytes, encapsulation_key: bytes) -> JoinKeys:
        """Raise NotAuthentic if the OFFER's public keys are none."""
        private = EcdhKey()
        ecdh = private.agree(share)
        try:
            kem, ciphertext = MLKEM1024PublicKey.from_public_bytes(encapsulation_key).encapsulate()
        except ValueError as exc:
            raise NotAuthentic("handshake: an ML-KEM key that is none") from exc
        return cls(private.share, ciphertext, SharedSecrets(ecdh, kem))


class Box:
    """AES-256-GCM for one direction and use: sequence numbers without gaps, AAD is T2 or T4.

    A side either seals or opens with a box, never both.
    """

    def __init__(self, key: bytes, transcript: bytes) -> None:
        self._cipher, self._transcript = AESGCM(key), transcript
        self.sequence = 0

    def seal(self, plaintext: bytes) -> bytes:
        nonce, self.sequence = _nonce(self.sequence), self.sequence + 1
        return self._cipher.encrypt(nonce, plaintext, self._transcript)

    def open(self, sealed: bytes) -> bytes:
        """The plaintext of the next box in order; raise NotAuthentic for any other."""
        try:
            plaintext = self._cipher.decrypt(_nonce(self.sequence), sealed, self._transcript)
        except InvalidTag as exc:
            raise NotAuthentic("handshake: a box that does not open") from exc
        self.sequence += 1
        return plaintext


class LaterBoxes(Struct, frozen=True):
    """The boxes for what follows a GRANT or an ACTIVATE. None of them opens either."""

    confirm: Box
    event: Box
    parent_event: Box


class WarmKeys(Unshown, Struct, frozen=True):
    """What K leaves behind for a child that is kept warm; a child that is none lets go of it."""

    update: Box
    resume: bytes


class Boxes(Struct, frozen=True):
    """One box for each direction and use: the GRANT's, to be let go of once it is used."""

    grant: Box
    later: LaterBoxes
    warm: WarmKeys


class ActiveBoxes(Struct, frozen=True):
    """The same for a warm child that is activated: the ACTIVATE's box, and what follows it."""

    activate: Box
    later: LaterBoxes


def derive_boxes(
    peer: VerifiedReport, *, report_data: bytes, secrets: SharedSecrets, t2: bytes
) -> Boxes:
    """K and its keys. Whoever has no VerifiedReport of the other side cannot call this.

    ``report_data`` is what this transcript wants the peer to have signed. That it did is a part of
    the verification already; here it ties the report that was verified to these secrets.
    """
    _require_verified(peer, report_data)
    key = HKDF.extract(SHA384(), t2, lp(secrets.ecdh, secrets.kem))
    warm = WarmKeys(_box(key, _UPDATE_LABEL, t2), _expand(key, _RESUME_LABEL))
    return Boxes(_box(key, _GRANT_LABEL, t2), _later(key, t2), warm)


def derive_active_boxes(
    peer: VerifiedReport, *, report_data: bytes, resume: bytes, ecdh: bytes, t4: bytes
) -> ActiveBoxes:
    """K3 and its keys, with ``resume`` of the K before it.

    The parent's ``peer`` is the warm child's new report, over this very CALL. The child's is the
    one that its parent gave for K: nobody else can make K3, so there is no other.
    """
    _require_verified(peer, report_data)
    key = HKDF.extract(SHA384(), t4, lp(resume, ecdh))
    return ActiveBoxes(_box(key, _ACTIVATE_LABEL, t4), _later(key, t4))


def _require_verified(peer: VerifiedReport, report_data: bytes) -> None:
    if type(peer) is not VerifiedReport or not hmac.compare_digest(peer.report_data, report_data):
        raise AttestationFailed("handshake: the verified report is not of this exchange")


def _later(key: bytes, transcript: bytes) -> LaterBoxes:
    return LaterBoxes(
        confirm=_box(key, _CONFIRM_LABEL, transcript),
        event=_box(key, _EVENT_LABEL, transcript),
        parent_event=_box(key, _PARENT_EVENT_LABEL, transcript),
    )


def _box(key: bytes, label: bytes, transcript: bytes) -> Box:
    return Box(_expand(key, label), transcript)


def _expand(key: bytes, label: bytes) -> bytes:
    return HKDFExpand(SHA384(), _KEY_SIZE, label).derive(key)


def _nonce(sequence: int) -> bytes:
    return bytes(4) + sequence.to_bytes(8, "big")
