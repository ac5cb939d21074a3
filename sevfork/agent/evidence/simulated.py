"""Evidence from the simulated secure processor: it protects nothing.

The simulator lives in the host's command; the agent asks it over the control channel with frames of
its own kind. This module is absent from images built for hardware (tested on the built file
system), and with it that kind of frame (``wire/simulated.py``).
"""

from __future__ import annotations

import os
from collections.abc import Callable

from sevfork.attest.evidence import Evidence
from sevfork.errors import AttestationFailed
from sevfork.technology import Technology
from sevfork.wire.lines import ID_SIZE, Frame
from sevfork.wire.simulated import SIMULATED_EVIDENCE

EVIDENCE_TIMEOUT_S = 30.0

# Sends a frame and returns the frame of the same kind and id that answers it, within a deadline.
Exchange = Callable[[Frame, float], Frame]


class SimulatedProvider:
    """Asks the host's simulator for a report over 64 bytes of report data."""

    technology = Technology.SIMULATED

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def evidence(self, report_data: bytes) -> Evidence:
        request = Frame(SIMULATED_EVIDENCE, os.urandom(ID_SIZE), report_data)
        evidence = Evidence.decode(self._exchange(request, EVIDENCE_TIMEOUT_S).payload)
        if evidence.technology is not self.technology:
            raise AttestationFailed("the simulated secure processor answered with other evidence")
        return evidence
