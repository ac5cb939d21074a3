"""Evidence through configfs-tsm, the kernel's one interface for SNP reports and TDX quotes (6.7).

Source: Documentation/ABI/testing/configfs-tsm-report. A report is a directory of its own: 64 bytes
go into ``inblob``, the report comes out of ``outblob``, its certificates (SNP, where the host gave
some) out of ``auxblob``. Two things are not as in other files:

- ``inblob`` is taken at close, and an error then reaches nobody. Only ``generation``, which every
  write that was taken raises by one, says that these 64 bytes are what the report is made of.
- reading ``outblob`` is what asks the firmware, so it may be busy, slow, or refuse.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from sevfork.agent.evidence.hardware import named
from sevfork.errors import AttestationFailed
from sevfork.technology import Technology

log = logging.getLogger(__name__)

REPORTS = Path("/sys/kernel/config/tsm/report")
_PROVIDERS = {Technology.SEV_SNP: "sev_guest", Technology.TDX: "tdx_guest"}
# ENOTTY: what older kernels say in ``outblob`` where newer ones say ENXIO.
_NO_PROVIDER = {errno.ENXIO, errno.ENOTTY}
_NO_PROVIDER_HINT = "is this VM confidential, and the driver 'sev-guest' or 'tdx-guest' loaded?"
_NO_TSM_HINT = "configfs has to be mounted, and the driver 'tsm' loaded (Linux 6.7)"


class Reports(Protocol):
    """The directory of reports. Every method raises OSError with the kernel's errno."""

    def make(self, name: str) -> None: ...

    def remove(self, name: str) -> None: ...

    def read(self, name: str, attribute: str) -> bytes: ...

    def write(self, name: str, attribute: str, data: bytes) -> None: ...


class ConfigfsReports:
    """The kernel's."""

    def __init__(self, directory: Path = REPORTS) -> None:
        self._directory = directory

    def make(self, name: str) -> None:
        self._directory.joinpath(name).mkdir()

    def remove(self, name: str) -> None:
        self._directory.joinpath(name).rmdir()

    def read(self, name: str, attribute: str) -> bytes:
        return self._directory.joinpath(name, attribute).read_bytes()

    def write(self, name: str, attribute: str, data: bytes) -> None:
        """In one write, and never creating a file: an attribute is there or it is not."""
        file = os.open(self._directory / name / attribute, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if os.write(file, data) != len(data):
                raise OSError(errno.EIO, "the write was cut short", attribute)
        finally:
            os.close(file)


class TsmSource:
    """Asks configfs-tsm, which has to speak of the technology that this image is for."""

    def __init__(self, technology: Technology, reports: Reports | None = None) -> None:
        self._provider = _PROVIDERS[technology]
        self._reports = ConfigfsReports() if reports is None else reports

    def ask(self, report_data: bytes) -> tuple[bytes, bytes]:
        """One report in a directory of its own; EAGAIN if somebody else wrote to it meanwhile."""
        with self._directory() as name:
            self._check_provider(name)
            before = self._generation(name)
            self._reports.write(name, "inblob", report_data)
            report = self._reports.read(name, "outblob")
            certificates = self._certificates(name)
            writes = self._generation(name) - before
        if writes != 1:
            raise OSError(errno.EAGAIN, f"{writes} writes instead of one", "generation")
        return report, certificates

    @contextmanager
    def _directory(self) -> Iterator[str]:
        # A name that a crash before may not have left behind, and that no other process takes.
        name = f"sevfork-{secrets.token_hex(8)}"
        self._reports.make(name)
        try:
            yield name
        finally:
            try:
                self._reports.remove(name)
            except OSError as exc:
                # The report that was read is good all the same; what stays is an empty directory.
                log.warning("'%s' was not removed: %s", name, exc)

    def _check_provider(self, name: str) -> None:
        got = self._reports.read(name, "provider").decode(errors="replace").strip()
        if got != self._provider:
            raise AttestationFailed(f"the TSM is '{got}', this image is for '{self._provider}'")

    def _generation(self, name: str) -> int:
        text = self._reports.read(name, "generation")
        try:
            return int(text)
        except ValueError as exc:
            raise AttestationFailed(f"the TSM's generation is '{text[:20]!r}'") from exc

    def _certificates(self, name: str) -> bytes:
        """The SNP certificate table; TDX has no such attribute."""
        try:
            table = self._reports.read(name, "auxblob")
        except FileNotFoundError:
            return b""
        return table if any(table) else b""

    def refused(self, exc: OSError) -> AttestationFailed:
        if exc.errno in _NO_PROVIDER:
            return AttestationFailed("the kernel has no TSM provider", hint=_NO_PROVIDER_HINT)
        if exc.errno == errno.ENOENT:
            return AttestationFailed("the kernel has no configfs-tsm", hint=_NO_TSM_HINT)
        return AttestationFailed(f"the TSM gave no report: {named(exc)}")
