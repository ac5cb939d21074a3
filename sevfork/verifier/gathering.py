"""Getting several things from services and going on where one is not to be had."""

from __future__ import annotations

from sevfork.attest.evidence import Evidence
from sevfork.errors import HostCannot, SevforkError, TimedOut
from sevfork.lifecycle.gathered import Gathered, Item
from sevfork.verifier.service import Service, Wanted


class Gathering:
    """Notes what was got and what was not; a thing that has run out is better than none.

    It still says who is revoked, and whoever judges it looks at the time.
    """

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._missing: list[SevforkError] = []

    def get(self, service: Service, wanted: Wanted) -> bytes:
        """The thing, or ``b""``."""
        try:
            content: bytes | None = service.get(wanted)
        except (HostCannot, TimedOut) as exc:
            self._missing.append(exc)
            content = service.kept(wanted)
        if content is None:
            return b""
        path, until = str(service.path_of(wanted)), wanted.until(content)
        self._items.append(Item(wanted.what, path, until))
        return content

    def lacks(self, error: SevforkError) -> None:
        self._missing.append(error)

    def gathered(self, evidence: Evidence) -> Gathered:
        return Gathered(evidence, tuple(self._items), tuple(self._missing))
