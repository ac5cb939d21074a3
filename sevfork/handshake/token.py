"""The owner's token: which forks the owner of a VM allows.

It is signed offline, for one instance and one policy, and is spent once. Spent serials live in the
agent's RAM only: a token names the instance key, which dies with the agent, so restarting the agent
does not make a token good again.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, replace

from sevfork.errors import RefusedByGuest
from sevfork.handshake.codec import Cursor, MessageKind, head
from sevfork.handshake.instance import SIGNATURE_SIZE
from sevfork.handshake.launch import DIGEST_SIZE
from sevfork.handshake.lineage import owner_digest
from sevfork.handshake.messages import INSTANCE_KEY_SIZE
from sevfork.handshake.owner_signature import TOKEN_NAMESPACE, Signer, check_owner_signature


@dataclass(frozen=True)
class OwnerToken:
    """Up to ``children`` children of this instance, in one fork."""

    owner_key: bytes
    instance_key: bytes
    policy_digest: bytes
    children: int
    serial: int
    signature: bytes = bytes(SIGNATURE_SIZE)

    @classmethod
    def issue(
        cls,
        owner: Signer,
        *,
        instance_key: bytes,
        policy_digest: bytes,
        children: int,
        serial: int,
    ) -> OwnerToken:
        """For the owner's own machine, after it has attested the instance."""
        unsigned = cls(owner.public, instance_key, policy_digest, children, serial)
        return replace(unsigned, signature=owner.sign(TOKEN_NAMESPACE, unsigned._body()))

    def check(self, owner: bytes) -> None:
        """Raise RefusedByGuest for another owner's token, NotAuthentic for a wrong signature."""
        if not hmac.compare_digest(owner_digest(self.owner_key), owner):
            raise RefusedByGuest("the token is of another owner than this VM's")
        check_owner_signature(self.owner_key, TOKEN_NAMESPACE, self._body(), self.signature)

    def encode(self) -> bytes:
        return self._body() + self.signature

    @classmethod
    def decode(cls, data: bytes) -> OwnerToken:
        """Raise NotAuthentic unless data is exactly one token; the signature is not checked."""
        cursor = Cursor(MessageKind.OWNER_TOKEN, data)
        cursor.zeros(2)
        token = cls(
            owner_key=cursor.take(INSTANCE_KEY_SIZE),
            instance_key=cursor.take(INSTANCE_KEY_SIZE),
            policy_digest=cursor.take(DIGEST_SIZE),
            children=cursor.number(4),
            serial=cursor.number(8),
            signature=cursor.take(SIGNATURE_SIZE),
        )
        cursor.end()
        return token

    def _body(self) -> bytes:
        subject = self.owner_key + self.instance_key + self.policy_digest
        allowed = self.children.to_bytes(4, "big") + self.serial.to_bytes(8, "big")
        return head(MessageKind.OWNER_TOKEN) + subject + allowed


class TokenGate:
    """Lets a fork pass against a token, each token once."""

    def __init__(self, owner: bytes | None, instance_key: bytes, policy_digest: bytes) -> None:
        self._owner, self._instance_key, self._policy = owner, instance_key, policy_digest
        self._spent: set[int] = set()

    def check(self, token: bytes | None, children: int) -> OwnerToken:
        """The token, good for a fork into that many children; raise RefusedByGuest otherwise."""
        if self._owner is None:
            raise RefusedByGuest("the policy asks for an owner's token, and this VM has no owner")
        if token is None:
            raise RefusedByGuest(
                "this VM's policy asks for a token of its owner", hint="give one with --token FILE"
            )
        checked = OwnerToken.decode(token)
        checked.check(self._owner)
        self._require_scope(checked, children)
        return checked

    def spend(self, token: OwnerToken) -> None:
        """For a token that was checked, just before it takes effect; raise RefusedByGuest."""
        self._require_unspent(token)
        self._spent.add(token.serial)

    def _require_scope(self, token: OwnerToken, children: int) -> None:
        if token.instance_key != self._instance_key:
            raise RefusedByGuest("the token is for another instance, or this VM was started anew")
        if token.policy_digest != self._policy:
            raise RefusedByGuest("the token is for another policy than this VM's")
        if not 1 <= children <= token.children:
            raise RefusedByGuest(f"the token allows {token.children} children, not {children}")
        self._require_unspent(token)

    def _require_unspent(self, token: OwnerToken) -> None:
        if token.serial in self._spent:
            raise RefusedByGuest(f"the token with serial {token.serial} is spent")
