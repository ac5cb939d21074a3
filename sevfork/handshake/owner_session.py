"""What an owner asks a VM, and what it answers, through a host that can read neither (docs/
owner-questions.md): bytes in, bytes out.

The question is signed by the owner and names one instance. The answer is sealed under a key that
both have agreed on as for a fork, by ECDH and ML-KEM, and signed by that instance. Each share
serves once: a question that is replayed is answered under another key, which nobody has.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Struct
from msgspec.structs import replace

from sevfork.errors import NotAuthentic, RefusedByGuest
from sevfork.handshake.codec import Cursor, MessageKind, head
from sevfork.handshake.instance import SIGNATURE_SIZE, InstanceKey, check_signature
from sevfork.handshake.keys import JoinKeys, OfferKeys, SharedSecrets
from sevfork.handshake.lineage import owner_digest
from sevfork.handshake.messages import INSTANCE_KEY_SIZE, KEM_SIZE, SHARE_SIZE
from sevfork.handshake.owner_signature import QUESTION_NAMESPACE, Signer, check_owner_signature
from sevfork.wire.lp import lp

MAX_REQUEST_BYTES = 4096
MAX_REPLY_BYTES = 96 * 1024
_TAG_SIZE = 16
_KEYS_SIZE = 4 + SHARE_SIZE + KEM_SIZE
MAX_QUESTION_BYTES = _KEYS_SIZE + 2 * INSTANCE_KEY_SIZE + 4 + MAX_REQUEST_BYTES + SIGNATURE_SIZE
MAX_ANSWER_BYTES = _KEYS_SIZE + 4 + MAX_REPLY_BYTES + _TAG_SIZE + SIGNATURE_SIZE
_KEY_SIZE = 32
_KEY_LABEL = b"sevfork/1 owner answer"
_ANSWER_LABEL = b"sevfork/1 signed owner answer"
# A key seals one answer.
_NONCE = bytes(12)


class Question(Struct, frozen=True):
    """Of the owner with this key, to the instance with that one: an encoded request."""

    owner_key: bytes
    instance_key: bytes
    share: bytes
    encapsulation_key: bytes
    request: bytes
    signature: bytes = bytes(SIGNATURE_SIZE)

    def encode(self) -> bytes:
        return self._body() + self.signature

    @classmethod
    def decode(cls, data: bytes) -> Question:
        """Raise NotAuthentic unless data is exactly one question; its signature is not checked."""
        cursor = Cursor(MessageKind.OWNER_QUESTION, data)
        cursor.zeros(2)
        question = cls(
            owner_key=cursor.take(INSTANCE_KEY_SIZE),
            instance_key=cursor.take(INSTANCE_KEY_SIZE),
            share=cursor.take(SHARE_SIZE),
            encapsulation_key=cursor.take(KEM_SIZE),
            request=cursor.lp(MAX_REQUEST_BYTES),
            signature=cursor.take(SIGNATURE_SIZE),
        )
        cursor.end()
        return question

    def check(self, owner: bytes | None, instance_key: bytes) -> None:
        """Raise RefusedByGuest unless it is of the owner with this digest, to this instance.

        And NotAuthentic for a wrong signature.
        """
        if owner is None:
            raise RefusedByGuest("this VM was launched without an owner: it answers to none")
        if not hmac.compare_digest(owner_digest(self.owner_key), owner):
            raise RefusedByGuest("the question is of another owner than this VM's")
        if not hmac.compare_digest(self.instance_key, instance_key):
            raise RefusedByGuest("the question is to another instance than this VM")
        check_owner_signature(self.owner_key, QUESTION_NAMESPACE, self._body(), self.signature)

    def signed(self, owner: Signer) -> Question:
        return replace(self, signature=owner.sign(QUESTION_NAMESPACE, self._body()))

    def _body(self) -> bytes:
        keys = self.owner_key + self.instance_key + self.share + self.encapsulation_key
        return head(MessageKind.OWNER_QUESTION) + keys + lp(self.request)


class Asked:
    """The owner's side of one question: it opens the answer to it, and no other."""

    def __init__(self, owner: Signer, instance_key: bytes, request: bytes) -> None:
        self._keys = OfferKeys()
        mine = (self._keys.share, self._keys.encapsulation_key)
        unsigned = Question(owner.public, instance_key, *mine, request)
        self._instance_key, self.question = instance_key, unsigned.signed(owner).encode()

    def open(self, answer: bytes) -> bytes:
        """The reply; raise NotAuthentic unless that instance has sealed it for this question."""
        cursor = Cursor(MessageKind.OWNER_ANSWER, answer)
        cursor.zeros(2)
        share, ciphertext = cursor.take(SHARE_SIZE), cursor.take(KEM_SIZE)
        box = cursor.lp(MAX_REPLY_BYTES + _TAG_SIZE)
        signature = cursor.take(SIGNATURE_SIZE)
        cursor.end()
        signed = lp(self.question, share, ciphertext, box)
        check_signature(self._instance_key, _ANSWER_LABEL, signed, signature)
        secrets = self._keys.agree(share, ciphertext)
        try:
            return _cipher(secrets, self.question, share, ciphertext).decrypt(_NONCE, box, None)
        except InvalidTag as exc:
            raise NotAuthentic("owner answer: a box that does not open") from exc


def answer(question: bytes, reply: bytes, key: InstanceKey) -> bytes:
    """A reply to a question that was checked, sealed for whoever has made it.

    Raises NotAuthentic for keys that are none.
    """
    asked = Question.decode(question)
    keys = JoinKeys.answer(asked.share, asked.encapsulation_key)
    cipher = _cipher(keys.secrets, question, keys.share, keys.ciphertext)
    box = cipher.encrypt(_NONCE, reply, None)
    signature = key.sign(_ANSWER_LABEL, lp(question, keys.share, keys.ciphertext, box))
    return head(MessageKind.OWNER_ANSWER) + keys.share + keys.ciphertext + lp(box) + signature


def _cipher(secrets: SharedSecrets, question: bytes, share: bytes, ciphertext: bytes) -> AESGCM:
    """Of both sides' whole words: another question, or another answer, makes another key."""
    salt = hashlib.sha384(lp(question, share, ciphertext)).digest()
    secret = lp(secrets.ecdh, secrets.kem)
    return AESGCM(HKDF(SHA384(), _KEY_SIZE, salt, _KEY_LABEL).derive(secret))
