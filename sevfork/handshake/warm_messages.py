"""The messages of a warm child (docs/handshake.md has the layout of each).

A CALL is not authentic by itself, and neither is an ANSWER's core: the child's evidence over both,
and keys that only the two sides of one GRANT can make, are what they are good for.
"""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct

from sevfork.handshake.codec import Cursor, MessageKind, head
from sevfork.handshake.launch import DIGEST_SIZE
from sevfork.handshake.manifest import MANIFEST_LIMIT_BYTES
from sevfork.handshake.messages import (
    EVIDENCE_LIMIT_BYTES,
    FORK_ID_SIZE,
    GRANT_BOX_LIMIT_BYTES,
    NONCE_SIZE,
    SHARE_SIZE,
    TAG_SIZE,
    GrantContent,
)
from sevfork.unshown import Unshown
from sevfork.wire.lp import lp

_UPDATE_BOX_LIMIT_BYTES = 4 + MANIFEST_LIMIT_BYTES + TAG_SIZE


class WarmGrantContent(Unshown, Struct, frozen=True):
    """What a GRANT's box holds for a child that is kept warm: the manifest, and no lineage."""

    manifest: bytes

    def encode(self) -> bytes:
        return head(MessageKind.WARM_GRANT_CONTENT) + lp(self.manifest)

    @classmethod
    def decode(cls, data: bytes) -> WarmGrantContent:
        cursor = Cursor(MessageKind.WARM_GRANT_CONTENT, data)
        cursor.zeros(2)
        content = cls(cursor.lp(MANIFEST_LIMIT_BYTES))
        cursor.end()
        return content

    @staticmethod
    def is_in(box: bytes) -> bool:
        """Whether this is what an opened box of a GRANT holds."""
        return box[:2] == head(MessageKind.WARM_GRANT_CONTENT)[:2]


class Update(Struct, frozen=True):
    """From the parent: the chain as it now is. The box holds LP(manifest), all layers of it."""

    sequence: int
    box: bytes

    def encode(self) -> bytes:
        return head(MessageKind.UPDATE) + self.sequence.to_bytes(8, "big") + self.box

    @classmethod
    def decode(cls, data: bytes) -> Update:
        cursor = Cursor(MessageKind.UPDATE, data)
        cursor.zeros(2)
        update = cls(cursor.number(8), cursor.rest())
        if not 4 + TAG_SIZE <= len(update.box) <= _UPDATE_BOX_LIMIT_BYTES:
            raise cursor.error(f"the box has {len(update.box)} bytes")
        return update


class Call(Struct, frozen=True):
    """From the parent: this place in this fork is yours, with this chain, if you prove yourself."""

    nonce: bytes
    share: bytes
    fork_id: bytes
    child_index: int
    generation: int
    manifest_digest: bytes

    def encode(self) -> bytes:
        first = head(MessageKind.CALL) + self.nonce + self.share
        place = self.fork_id + self.child_index.to_bytes(4, "big")
        return first + place + self.generation.to_bytes(8, "big") + self.manifest_digest

    @classmethod
    def decode(cls, data: bytes) -> Call:
        cursor = Cursor(MessageKind.CALL, data)
        cursor.zeros(2)
        call = cls(
            nonce=cursor.take(NONCE_SIZE),
            share=cursor.take(SHARE_SIZE),
            fork_id=cursor.take(FORK_ID_SIZE),
            child_index=cursor.number(4),
            generation=cursor.number(8),
            manifest_digest=cursor.take(DIGEST_SIZE),
        )
        cursor.end()
        return call


class AnswerCore(Struct, frozen=True):
    """The part of an ANSWER that the warm child's new evidence speaks for."""

    nonce: bytes
    share: bytes

    SIZE: ClassVar[int] = 4 + NONCE_SIZE + SHARE_SIZE

    def encode(self) -> bytes:
        return head(MessageKind.ANSWER) + self.nonce + self.share

    @classmethod
    def decode(cls, data: bytes) -> AnswerCore:
        cursor = Cursor(MessageKind.ANSWER, data)
        cursor.zeros(2)
        core = cls(cursor.take(NONCE_SIZE), cursor.take(SHARE_SIZE))
        cursor.end()
        return core


class Answer(Struct, frozen=True):
    """From the warm child: its core, as the exact bytes, and the evidence for it."""

    core: bytes
    evidence: bytes

    def encode(self) -> bytes:
        return self.core + lp(self.evidence)

    @classmethod
    def decode(cls, data: bytes) -> Answer:
        cursor = Cursor(MessageKind.ANSWER, data)
        core = data[:2] + cursor.take(AnswerCore.SIZE - 2)
        answer = cls(core, cursor.lp(EVIDENCE_LIMIT_BYTES))
        cursor.end()
        return answer


class Activate(Struct, frozen=True):
    """From the parent: the box with the whole chain and the lineage. With it a child is one."""

    box: bytes

    def encode(self) -> bytes:
        return head(MessageKind.ACTIVATE) + lp(self.box)

    @classmethod
    def decode(cls, data: bytes) -> Activate:
        cursor = Cursor(MessageKind.ACTIVATE, data)
        cursor.zeros(2)
        activate = cls(cursor.lp(GRANT_BOX_LIMIT_BYTES))
        cursor.end()
        return activate


class ActivateContent(GrantContent, frozen=True):
    """What the ACTIVATE's box holds: the encoded manifest and the child's encoded lineage."""

    KIND: ClassVar[MessageKind] = MessageKind.ACTIVATE_CONTENT
