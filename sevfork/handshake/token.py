"""The owner's token: which forks the owner of a VM allows. Signed offline, for one instance."""

from __future__ import annotations

import hmac

from msgspec import Struct
from msgspec.structs import replace

from sevfork.errors import RefusedByGuest
from sevfork.handshake.codec import Cursor, MessageKind, head
from sevfork.handshake.instance import SIGNATURE_SIZE
from sevfork.handshake.launch import DIGEST_SIZE
from sevfork.handshake.lineage import owner_digest
from sevfork.handshake.messages import INSTANCE_KEY_SIZE
from sevfork.handshake.owner_signature import TOKEN_NAMESPACE, Signer, check_owner_signature
from sevfork.wire.lp import lp

MAX_CHIPS = 64
# An SNP chip id, and Intel's PPID.
CHIP_SIZES = (64, 16)
FOREVER = 0
MAX_SIZE = 16 * 1024


class Allowance(Struct, frozen=True):
    """Up to ``children`` children: in one fork, or ``standing``, child by child in many.

    ``not_after`` is in seconds since 1970, or FOREVER: a hint, since a guest's clock is its host's
    word. ``chips``: where children may run; anywhere that the policy allows, if there are none.
    """

    children: int
    standing: bool = False
    not_after: int = FOREVER
    chips: tuple[bytes, ...] = ()


class OwnerToken(Struct, frozen=True):
    """An allowance for the instance with this key, under the policy with this digest."""

    owner_key: bytes
    instance_key: bytes
    policy_digest: bytes
    serial: int
    allowed: Allowance
    signature: bytes = bytes(SIGNATURE_SIZE)

    @classmethod
    def issue(
        cls,
        owner: Signer,
        *,
        instance_key: bytes,
        policy_digest: bytes,
        serial: int,
        allowed: Allowance,
    ) -> OwnerToken:
        """For the owner's own machine, after it has attested the instance."""
        unsigned = cls(owner.public, instance_key, policy_digest, serial, allowed)
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
        standing, chips = cursor.number(1), cursor.number(1)
        if standing > 1 or chips > MAX_CHIPS:
            raise cursor.error("reserved bits are set, or there are too many chips")
        token = cls(
            owner_key=cursor.take(INSTANCE_KEY_SIZE),
            instance_key=cursor.take(INSTANCE_KEY_SIZE),
            policy_digest=cursor.take(DIGEST_SIZE),
            serial=cursor.number(8),
            allowed=Allowance(
                children=cursor.number(4),
                standing=bool(standing),
                not_after=cursor.number(8),
                chips=tuple(_chip(cursor) for _ in range(chips)),
            ),
            signature=cursor.take(SIGNATURE_SIZE),
        )
        cursor.end()
        return token

    def _body(self) -> bytes:
        allowed = self.allowed
        first = head(MessageKind.OWNER_TOKEN, allowed.standing, len(allowed.chips))
        subject = self.owner_key + self.instance_key + self.policy_digest
        numbers = self.serial.to_bytes(8, "big") + allowed.children.to_bytes(4, "big")
        return first + subject + numbers + allowed.not_after.to_bytes(8, "big") + lp(*allowed.chips)


def _chip(cursor: Cursor) -> bytes:
    chip = cursor.lp(max(CHIP_SIZES))
    if len(chip) not in CHIP_SIZES:
        raise cursor.error(f"a chip has {len(chip)} bytes")
    return chip
