"""Nouns that the host side and the guest side share."""

from __future__ import annotations

from enum import Enum


class Technology(Enum):
    """How a guest is isolated, and whose word its evidence is."""

    SIMULATED = "simulated"
    SEV_SNP = "sev-snp"
    TDX = "tdx"

    @property
    def wire(self) -> int:
        """The byte that stands for it in handshake messages."""
        return {Technology.SIMULATED: 1, Technology.SEV_SNP: 2, Technology.TDX: 3}[self]

    @property
    def confidential(self) -> bool:
        return self is not Technology.SIMULATED

    @property
    def label(self) -> str:
        """What every place that shows the technology prints."""
        return self.value if self.confidential else "simulated, not confidential"
