"""What a child checks in the box of a GRANT or an ACTIVATE before it lets go of any state."""

from __future__ import annotations

import hmac

from msgspec import Struct

from sevfork.errors import NotAuthentic
from sevfork.handshake.actions import ReleaseState
from sevfork.handshake.launch import LaunchConfig, Role
from sevfork.handshake.lineage import ForkCertificate, Lineage
from sevfork.handshake.manifest import TO_COME, Manifest, manifest_digest
from sevfork.handshake.messages import GrantContent, Offer
from sevfork.handshake.own_launch import OwnLaunch
from sevfork.handshake.warm_messages import Call


class Place(Struct, frozen=True):
    """What was promised to one child before any box came; ``what`` names the box in errors.

    An OFFER names no generation, so there it is None, and the certificate's counts. Nor does one
    that was made before the capture have a manifest's digest: the GRANT's counts.
    """

    what: str
    parent: bytes
    parent_was_forked: bool
    child: bytes
    fork_id: bytes
    child_index: int
    generation: int | None
    manifest_digest: bytes | None

    @classmethod
    def of_offer(cls, offer: Offer, child: bytes) -> Place:
        digest = None if offer.manifest_digest == TO_COME else offer.manifest_digest
        place = (offer.fork_id, offer.child_index, None, digest)
        return cls("grant", offer.instance_key, _was_forked(offer), child, *place)

    @classmethod
    def of_call(cls, call: Call, offer: Offer, child: bytes) -> Place:
        place = (call.fork_id, call.child_index, call.generation, call.manifest_digest)
        return cls("activate", offer.instance_key, _was_forked(offer), child, *place)

    def manifest(self, encoded: bytes) -> Manifest:
        """Raise NotAuthentic unless it is the manifest that was promised, if one was."""
        promised = self.manifest_digest
        if promised is not None and not hmac.compare_digest(manifest_digest(encoded), promised):
            raise self._error("the manifest is not the one that was offered")
        return Manifest.decode(encoded)

    def release(self, own: OwnLaunch, content: GrantContent) -> ReleaseState:
        """The manifest is the one that was promised, and the lineage ends in this very place."""
        manifest, lineage = self.manifest(content.manifest), Lineage.decode(content.lineage)
        lineage.verify(own.config.owner)
        self._require_end_of(lineage, manifest_digest(content.manifest))
        return ReleaseState(manifest, lineage, lineage.generation)

    def _require_end_of(self, lineage: Lineage, digest: bytes) -> None:
        if not lineage.certificates:
            raise self._error("the lineage has no certificate for this child")
        if (len(lineage.certificates) > 1) != self.parent_was_forked:
            raise self._error("the lineage does not fit how the parent was launched")
        mine = lineage.certificates[-1]
        if not self._is_here(mine, digest):
            raise self._error("the lineage is that of another fork or place in it")
        if (mine.parent, mine.child) != (self.parent, self.child):
            raise self._error("the lineage is that of another child")

    def _is_here(self, mine: ForkCertificate, digest: bytes) -> bool:
        certified = (mine.fork_id, mine.child_index, mine.manifest_digest)
        promised = (self.fork_id, self.child_index, digest)
        return certified == promised and self.generation in (None, mine.generation)

    def _error(self, reason: str) -> NotAuthentic:
        return NotAuthentic(f"{self.what}: {reason}")


def _was_forked(offer: Offer) -> bool:
    return LaunchConfig.decode(offer.launch_config).role is Role.CHILD
