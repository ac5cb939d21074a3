"""Where a host gets what evidence is checked by: AMD, Intel, and what is kept of their answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock

from sevfork.attest.evidence import Evidence
from sevfork.errors import HostCannot
from sevfork.image.paths import cache_directory
from sevfork.lifecycle.gathered import Gathered
from sevfork.technology import Technology
from sevfork.verifier import kds
from sevfork.verifier.http import Fetcher
from sevfork.verifier.kds import KeyDistribution
from sevfork.verifier.provisioning import Provisioning
from sevfork.verifier.service import DEADLINE_S, Service, write

# For what a verb gets by the way: it goes on without, and the guest's policy decides.
BRIEF_S = 30.0
PCCS_VARIABLE = "SEVFORK_PCCS"
_WANTED = "certificates-wanted.evidence"


@dataclass(frozen=True)
class Sources:
    """``cache`` is sevfork's; what AMD and Intel say lies in a folder each, for ``--certs`` too."""

    amd: KeyDistribution
    intel: Provisioning
    cache: Path
    _lock: Lock = field(default_factory=Lock)

    @classmethod
    def of(
        cls,
        environ: Mapping[str, str],
        *,
        pccs_url: str | None = None,
        fetcher: Fetcher | None = None,
        deadline_s: float = DEADLINE_S,
        anew: bool = False,
    ) -> Sources:
        """The vendors' own, or the PCCS that is named here or in the environment.

        Without a fetcher what is kept on disk has to do.
        """
        cache = cache_directory(environ)
        pccs_url = pccs_url or environ.get(PCCS_VARIABLE) or None
        title = f"the PCCS at '{pccs_url}'" if pccs_url else "Intel's provisioning service"
        amd = Service(kds.TITLE, cache / "amd-kds", fetcher, deadline_s, anew)
        intel = Service(title, cache / "intel-pcs", fetcher, deadline_s, anew)
        return cls(KeyDistribution(amd), Provisioning.at(intel, pccs_url), cache)

    def gather(self, evidence: Evidence) -> Gathered:
        """All that is to be had; children of one fork ask after each other, not at once.

        Raises AttestationFailed if the evidence cannot be read.
        """
        if evidence.technology is Technology.SIMULATED:
            return Gathered(evidence)
        source = self.intel if evidence.technology is Technology.TDX else self.amd
        with self._lock:
            gathered = source.gather(evidence)
        return self._kept(gathered) if gathered.missing else gathered

    def _kept(self, gathered: Gathered) -> Gathered:
        """A VM that does not come to be leaves what ``sevfork certs fetch`` needs, if it can."""
        path = self.cache / _WANTED
        try:
            write(path, gathered.evidence.encode())
        except HostCannot as exc:
            return replace(gathered, missing=(*gathered.missing, exc))
        return replace(gathered, kept_at=str(path))

    def complete(self, evidence: Evidence) -> Evidence:
        """The same, and raises for the first thing that is missing."""
        gathered = self.gather(evidence)
        if gathered.missing:
            raise gathered.missing[0]
        return gathered.evidence
