"""The launch configuration: what the host says a VM is, and the hardware signs.

Encoding, 104 bytes: ``b"SFLC"`` | u8 version = 1 | u8 role | u8 1 if there is an owner | u8 zero |
owner (48 bytes, SHA-384 of the owner's Ed25519 public key, zero if none) | SHA-384 of the OFFER
(48 bytes, zero for a root).
"""

from __future__ import annotations

import hashlib
from enum import Enum

from msgspec import Struct

from sevfork.errors import NotAuthentic
from sevfork.technology import Technology
from sevfork.wire.lp import lp

MAGIC = b"SFLC"
VERSION = 1
LAUNCH_CONFIG_SIZE = 104
DIGEST_SIZE = 48
_ZERO = bytes(DIGEST_SIZE)


class Role(Enum):
    ROOT = 1
    CHILD = 2


class LaunchConfig(Struct, frozen=True):
    """Role, owner's key hash (SHA-384) or None, and for a child SHA-384 of the exact OFFER."""

    role: Role
    owner: bytes | None = None
    offer_digest: bytes | None = None

    def __post_init__(self) -> None:
        if (self.role is Role.CHILD) != (self.offer_digest is not None):
            raise NotAuthentic("launch config: a child names an OFFER and a root names none")
        for digest in (self.owner, self.offer_digest):
            if digest is not None and (len(digest) != DIGEST_SIZE or digest == _ZERO):
                raise NotAuthentic("launch config: a digest is 48 bytes and not zero")

    def encode(self) -> bytes:
        head = MAGIC + bytes([VERSION, self.role.value, self.owner is not None, 0])
        return head + (self.owner or _ZERO) + (self.offer_digest or _ZERO)

    @classmethod
    def decode(cls, data: bytes) -> LaunchConfig:
        """Raise NotAuthentic unless data is exactly one well-formed launch configuration."""
        if len(data) != LAUNCH_CONFIG_SIZE or data[:5] != MAGIC + bytes([VERSION]):
            raise NotAuthentic("launch config: wrong length, magic or version")
        role, has_owner, reserved = data[5], data[6], data[7]
        owner, offer = data[8:56], data[56:104]
        if role not in (1, 2) or has_owner > 1 or reserved:
            raise NotAuthentic("launch config: unknown role or reserved bits set")
        if bool(has_owner) != (owner != _ZERO) or (role == Role.CHILD.value) != (offer != _ZERO):
            raise NotAuthentic("launch config: a field is set that the role does not have")
        return cls(Role(role), owner if has_owner else None, offer if role == 2 else None)


def launch_config_hash(technology: Technology, config: bytes) -> bytes:
    """What the hardware signs of a launch config: HOST_DATA (32 bytes) or MRCONFIGID (48 bytes)."""
    hashed = lp(b"sevfork/1 launch", config)
    if technology is Technology.TDX:
        return hashlib.sha384(hashed).digest()
    return hashlib.sha256(hashed).digest()
