"""The place of a child in a fork, and what a parent certifies of it."""

from __future__ import annotations

from msgspec import Struct

from sevfork.handshake.audit_entries import Recipient
from sevfork.handshake.instance import InstanceKey
from sevfork.handshake.lineage import ForkCertificate
from sevfork.handshake.manifest import manifest_digest


class Slot(Struct, frozen=True):
    """Which fork, which child of it, and its generation. A parent gives each to one child."""

    fork_id: bytes
    child_index: int
    generation: int

    def recipient(self, instance_key: bytes, manifest: bytes) -> Recipient:
        """The VM that gets this place, or is to hold for it, as the audit record has it."""
        digest = manifest_digest(manifest)
        return Recipient(self.fork_id, self.child_index, instance_key, digest)

    def certify(self, parent: InstanceKey, child: bytes, manifest: bytes) -> ForkCertificate:
        """The parent's word that the instance with this key has this place and this manifest."""
        return ForkCertificate(
            parent=parent.public,
            child=child,
            fork_id=self.fork_id,
            child_index=self.child_index,
            generation=self.generation,
            manifest_digest=manifest_digest(manifest),
        ).signed(parent)
