"""Where a guest gets its evidence from: the interface that every technology's provider has."""

from __future__ import annotations

from typing import Protocol

from sevfork.attest.evidence import Evidence
from sevfork.technology import Technology


class EvidenceProvider(Protocol):
    """Asks the secure processor for a report of this very guest."""

    technology: Technology

    def evidence(self, report_data: bytes) -> Evidence:
        """A report over exactly 64 bytes, with its certificates where the guest has them.

        Raises AttestationFailed when there is no report to be had, TimedOut.
        """
