"""What the host has handed this VM for evidence, its own and its peers', and who makes use of it.

One set is kept, of bounded size. Nobody believes it: it completes evidence, and the policy judges
what comes of that. An older list never takes the place of a newer one.
"""

from __future__ import annotations

from sevfork.agent.evidence.provider import EvidenceProvider
from sevfork.attest.endorsements import Endorsements, endorsements
from sevfork.attest.evidence import Evidence
from sevfork.technology import Technology


class Shelf:
    """Empty at first; ``put`` as often as the host likes."""

    def __init__(self, technology: Technology) -> None:
        self._technology = technology
        self._held: Endorsements | None = None

    def put(self, certificates: bytes) -> None:
        """Raise AttestationFailed for what cannot be read; what was held is held on."""
        handed = endorsements(self._technology, certificates)
        self._held = handed if self._held is None else handed.after(self._held)

    def filled(self, evidence: Evidence) -> Evidence:
        """The evidence with what it lacks."""
        held = self._for(evidence)
        return held.filled(evidence) if held else evidence

    def renewed(self, evidence: Evidence) -> Evidence:
        """The evidence with nothing older than what is held."""
        held = self._for(evidence)
        return held.renewed(evidence) if held else evidence

    def _for(self, evidence: Evidence) -> Endorsements | None:
        return self._held if evidence.technology is self._technology else None


class EndorsedProvider:
    """A provider whose evidence comes with what a verifier needs, as far as it is at hand."""

    def __init__(self, provider: EvidenceProvider, shelf: Shelf) -> None:
        self.technology = provider.technology
        self._provider, self._shelf = provider, shelf

    def evidence(self, report_data: bytes) -> Evidence:
        return self._shelf.renewed(self._shelf.filled(self._provider.evidence(report_data)))
