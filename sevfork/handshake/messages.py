"""The messages of the handshake, version 1 (docs/handshake.md has the layout of each).

What is hashed is always the bytes that were received; ``encode`` is for the side that makes a
message. Fields that are random, keys or digests are plain bytes of the sizes given below.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, Self

from msgspec import Struct

from sevfork.attest.evidence import CERTIFICATES_LIMIT_BYTES, REPORT_LIMIT_BYTES
from sevfork.handshake.codec import Cursor, MessageKind, head
from sevfork.handshake.instance import SIGNATURE_SIZE
from sevfork.handshake.launch import DIGEST_SIZE, LAUNCH_CONFIG_SIZE
from sevfork.technology import Technology
from sevfork.unshown import Unshown
from sevfork.wire.lp import lp

SUITE_P384_MLKEM1024_AES256GCM_SHA384 = 1
FORK_ID_SIZE = 16
NONCE_SIZE = 32
SHARE_SIZE = 97  # an uncompressed P-384 point
KEM_SIZE = 1568  # an ML-KEM-1024 encapsulation key, and a ciphertext
INSTANCE_KEY_SIZE = 32
TAG_SIZE = 16
EVIDENCE_LIMIT_BYTES = 12 + REPORT_LIMIT_BYTES + CERTIFICATES_LIMIT_BYTES
GRANT_BOX_LIMIT_BYTES = 64 * 1024
DETAIL_LIMIT_BYTES = 1024


class Offer(Struct, frozen=True):
    """From the parent: one child of one capture may join."""

    technology: Technology
    fork_id: bytes
    child_index: int
    nonce: bytes
    share: bytes
    encapsulation_key: bytes
    launch_config: bytes
    instance_key: bytes
    manifest_digest: bytes
    policy_digest: bytes

    def encode(self) -> bytes:
        first = head(MessageKind.OFFER, SUITE_P384_MLKEM1024_AES256GCM_SHA384, self.technology.wire)
        child = self.fork_id + self.child_index.to_bytes(4, "big")
        keys = self.nonce + self.share + self.encapsulation_key
        parent = self.launch_config + self.instance_key
        return first + child + keys + parent + self.manifest_digest + self.policy_digest

    @classmethod
    def decode(cls, data: bytes) -> Offer:
        cursor = Cursor(MessageKind.OFFER, data)
        if cursor.number(1) != SUITE_P384_MLKEM1024_AES256GCM_SHA384:
            raise cursor.error("unknown suite")
        offer = cls(
            technology=cursor.technology(),
            fork_id=cursor.take(FORK_ID_SIZE),
            child_index=cursor.number(4),
            nonce=cursor.take(NONCE_SIZE),
            share=cursor.take(SHARE_SIZE),
            encapsulation_key=cursor.take(KEM_SIZE),
            launch_config=cursor.take(LAUNCH_CONFIG_SIZE),
            instance_key=cursor.take(INSTANCE_KEY_SIZE),
            manifest_digest=cursor.take(DIGEST_SIZE),
            policy_digest=cursor.take(DIGEST_SIZE),
        )
        cursor.end()
        return offer


class JoinCore(Struct, frozen=True):
    """The part of a JOIN that the child's evidence speaks for."""

    technology: Technology
    nonce: bytes
    share: bytes
    ciphertext: bytes
    launch_config: bytes
    instance_key: bytes

    SIZE: ClassVar[int] = (
        4 + NONCE_SIZE + SHARE_SIZE + KEM_SIZE + LAUNCH_CONFIG_SIZE + INSTANCE_KEY_SIZE
    )

    def encode(self) -> bytes:
        first = head(MessageKind.JOIN, SUITE_P384_MLKEM1024_AES256GCM_SHA384, self.technology.wire)
        keys = self.nonce + self.share + self.ciphertext
        return first + keys + self.launch_config + self.instance_key

    @classmethod
    def decode(cls, data: bytes) -> JoinCore:
        cursor = Cursor(MessageKind.JOIN, data)
        if cursor.number(1) != SUITE_P384_MLKEM1024_AES256GCM_SHA384:
            raise cursor.error("unknown suite")
        core = cls(
            technology=cursor.technology(),
            nonce=cursor.take(NONCE_SIZE),
            share=cursor.take(SHARE_SIZE),
            ciphertext=cursor.take(KEM_SIZE),
            launch_config=cursor.take(LAUNCH_CONFIG_SIZE),
            instance_key=cursor.take(INSTANCE_KEY_SIZE),
        )
        cursor.end()
        return core


class Join(Struct, frozen=True):
    """From the child: its core, as the exact bytes, and who speaks for it.

    ``signature`` (64 bytes) is by the instance key that the core names, over T1.
    """

    core: bytes
    signature: bytes
    evidence: bytes

    def encode(self) -> bytes:
        return self.core + self.signature + lp(self.evidence)

    @classmethod
    def decode(cls, data: bytes) -> Join:
        cursor = Cursor(MessageKind.JOIN, data)
        core = data[:2] + cursor.take(JoinCore.SIZE - 2)
        join = cls(core, cursor.take(SIGNATURE_SIZE), cursor.lp(EVIDENCE_LIMIT_BYTES))
        cursor.end()
        return join


class Grant(Struct, frozen=True):
    """From the parent: its evidence, and the box with the manifest and the lineage."""

    evidence: bytes
    box: bytes

    def encode(self) -> bytes:
        return head(MessageKind.GRANT) + lp(self.evidence, self.box)

    @classmethod
    def decode(cls, data: bytes) -> Grant:
        cursor = Cursor(MessageKind.GRANT, data)
        cursor.zeros(2)
        grant = cls(cursor.lp(EVIDENCE_LIMIT_BYTES), cursor.lp(GRANT_BOX_LIMIT_BYTES))
        cursor.end()
        return grant


class GrantContent(Unshown, Struct, frozen=True):
    """What the GRANT's box holds: the encoded manifest and the child's encoded lineage."""

    manifest: bytes
    lineage: bytes

    KIND: ClassVar[MessageKind] = MessageKind.GRANT_CONTENT

    def encode(self) -> bytes:
        return head(self.KIND) + lp(self.manifest, self.lineage)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        cursor = Cursor(cls.KIND, data)
        cursor.zeros(2)
        content = cls(cursor.lp(GRANT_BOX_LIMIT_BYTES), cursor.lp(GRANT_BOX_LIMIT_BYTES))
        cursor.end()
        return content


class Confirm(Struct, frozen=True):
    """From the child: the state is restored. An empty box, for what it says is that it opens."""

    box: bytes

    def encode(self) -> bytes:
        return head(MessageKind.CONFIRM) + self.box

    @classmethod
    def decode(cls, data: bytes) -> Confirm:
        cursor = Cursor(MessageKind.CONFIRM, data)
        cursor.zeros(2)
        confirm = cls(cursor.take(TAG_SIZE))
        cursor.end()
        return confirm


class Event(Struct, frozen=True):
    """From the child: something happened to it; the box holds an EventKind and a detail."""

    sequence: int
    box: bytes

    KIND: ClassVar[MessageKind] = MessageKind.EVENT

    def encode(self) -> bytes:
        return head(self.KIND) + self.sequence.to_bytes(8, "big") + self.box

    @classmethod
    def decode(cls, data: bytes) -> Self:
        cursor = Cursor(cls.KIND, data)
        cursor.zeros(2)
        event = cls(cursor.number(8), cursor.rest())
        if not 1 + TAG_SIZE <= len(event.box) <= 1 + DETAIL_LIMIT_BYTES + TAG_SIZE:
            raise cursor.error(f"the box has {len(event.box)} bytes")
        return event


class ParentEvent(Event, frozen=True):
    """The same from the parent to a child, under a key of its own."""

    KIND: ClassVar[MessageKind] = MessageKind.PARENT_EVENT


class EventKind(IntEnum):
    """What happened in a VM's life, as the other side is told."""

    RESTORED = 1
    HOOKS_PASSED = 2
    FAILED = 3
    EXITED = 4
    ABANDONED = 5
    SHUTTING_DOWN = 6
