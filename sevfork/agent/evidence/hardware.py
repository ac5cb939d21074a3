"""What every provider of hardware evidence does around its source: size and patience."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from typing import Protocol

from sevfork.attest.evidence import Evidence
from sevfork.errors import AttestationFailed, TimedOut
from sevfork.technology import Technology

log = logging.getLogger(__name__)

REPORT_DATA_SIZE = 64
# Above what the kernel itself waits for one report: 30 s (TDX) and 60 s (SNP).
DEADLINE_S = 150.0
RETRY_S = 0.2
_TRANSIENT = {errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT}


class EvidenceSource(Protocol):
    """One of the kernel's interfaces."""

    def ask(self, report_data: bytes) -> tuple[bytes, bytes]:
        """Report and certificates (or ``b""``); OSError with the kernel's errno, or our error."""

    def refused(self, exc: OSError) -> AttestationFailed:
        """What an errno that does not pass by itself means here."""


class HardwareProvider:
    """Evidence of one technology, with the certificates that the kernel has for it, if any."""

    def __init__(
        self,
        technology: Technology,
        source: EvidenceSource,
        *,
        deadline_s: float = DEADLINE_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.technology = technology
        self.source = source
        self._deadline_s, self._clock, self._sleep = deadline_s, clock, sleep

    def evidence(self, report_data: bytes) -> Evidence:
        """A report over exactly 64 bytes; AttestationFailed, or TimedOut after the deadline."""
        if len(report_data) != REPORT_DATA_SIZE:
            raise AttestationFailed(f"report data has {len(report_data)} bytes, not 64")
        report, certificates = self._patiently(report_data)
        return Evidence(self.technology, report, certificates)

    def _patiently(self, report_data: bytes) -> tuple[bytes, bytes]:
        end = self._clock() + self._deadline_s
        while True:
            try:
                return self.source.ask(report_data)
            except OSError as exc:
                if exc.errno not in _TRANSIENT:
                    raise self.source.refused(exc) from exc
                log.info("no report yet: %s", os.strerror(exc.errno))
                if self._clock() + RETRY_S >= end:
                    raise TimedOut(f"no report in {self._deadline_s:g} s: {exc.strerror}") from exc
            self._sleep(RETRY_S)


def named(exc: OSError) -> str:
    """An OSError as text and errno's name."""
    return f"{exc.strerror} ({errno.errorcode.get(exc.errno or 0, str(exc.errno))})"
