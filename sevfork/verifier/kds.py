"""AMD's key distribution service, for certificates that did not come with a report. Host only.

Offline by default: without a fetcher only the cache on disk answers. Nothing that comes from here
is believed: it takes its place in the evidence, and the verifier checks it like anything else.
"""

from __future__ import annotations

import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sevfork.attest.evidence import Evidence
from sevfork.attest.snp.certificates import OID_PRODUCT, CertificateTable, Endorsement
from sevfork.attest.snp.report import Product, SigningKey, SnpReport, Tcb
from sevfork.attest.x509 import Certificate, RevocationList
from sevfork.errors import AttestationFailed, HostCannot, TimedOut

BASE_URL = "https://kdsintf.amd.com/"
REQUEST_TIMEOUT_S = 20.0
DEADLINE_S = 120.0
_ANSWER_LIMIT_BYTES = 1 << 20
_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 1.0, 30.0
_OK, _TOO_MANY = 200, 429
_OFFLINE_HINT = "fetch them with --fetch, or give them as files with --certs"


@dataclass(frozen=True)
class Answer:
    """What the service said; ``retry_after_s`` is its own wish after a 429, if it had one."""

    status: int
    body: bytes
    retry_after_s: float | None = None


class Fetcher(Protocol):
    """Gets one URL; raises HostCannot if the service cannot be reached."""

    def __call__(self, url: str, *, timeout_s: float) -> Answer: ...


def https_fetcher(url: str, *, timeout_s: float) -> Answer:
    """The real one. Any HTTP status is an Answer."""
    if not url.startswith(BASE_URL):
        raise HostCannot(f"'{url}' is not AMD's key distribution service")
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:  # noqa: S310
            return Answer(response.status, response.read(_ANSWER_LIMIT_BYTES))
    except urllib.error.HTTPError as exc:
        return Answer(exc.code, b"", _seconds(exc.headers.get("Retry-After")))
    except (OSError, ValueError, http.client.HTTPException) as exc:
        why = _words(exc)
        raise HostCannot(f"AMD's key distribution service cannot be reached: {why}") from exc


def _words(exc: Exception) -> str:
    """The system's own word for what went wrong; a library's would be Python."""
    cause = exc.reason if isinstance(exc, urllib.error.URLError) else exc
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    if isinstance(cause, ssl.SSLError):
        return "no TLS connection that can be trusted"
    words = cause.strerror if isinstance(cause, OSError) else None
    return words or "no answer that makes sense"


def _seconds(header: str | None) -> float | None:
    return float(header) if header is not None and header.isdecimal() else None


@dataclass(frozen=True)
class KeyDistribution:
    """Certificates and revocation lists by product, from the cache or through ``fetcher``.

    ``now`` decides whether a cached revocation list is still current; ``clock`` and ``sleep``
    serve the deadline. All three are injected, for tests.
    """

    cache: Path
    fetcher: Fetcher | None = None
    deadline_s: float = DEADLINE_S
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def complete(self, evidence: Evidence) -> Evidence:
        """The evidence with what its certificate table lacks, and a current revocation list.

        Raises AttestationFailed if report or list does not parse, HostCannot if something is not to
        be had, TimedOut if the service keeps saying that there were too many requests.
        """
        report = SnpReport.decode(evidence.report)
        table = CertificateTable.decode(evidence.certificates)
        table = self._with_leaf(table, report)
        kind = report.signing_key.label
        product = _product(report, table)
        if not (table.ask and table.ark):
            ask, ark = self.chain(product, kind)
            table = replace(table, ask=table.ask or ask, ark=table.ark or ark)
        if not table.crl or self._has_run_out(table.crl):
            table = replace(table, crl=self.revocation_list(product, kind))
        return replace(evidence, certificates=table.encode())

    def _has_run_out(self, crl: bytes) -> bool:
        until = RevocationList.decode(crl).validity.end
        return until is None or until < self.now()

    def _with_leaf(self, table: CertificateTable, report: SnpReport) -> CertificateTable:
        if report.signing_key is SigningKey.VLEK and not table.vlek:
            raise HostCannot("a VLEK certificate is the cloud provider's to hand out, not AMD's")
        if report.signing_key is not SigningKey.VCEK or table.vcek:
            return table
        return replace(table, vcek=self.vcek(_product(report, table), report))

    def vcek(self, product: Product, report: SnpReport) -> bytes:
        """The chip's certificate for the TCB that the report says, DER."""
        tcb = Tcb.decode(report.reported_tcb, product)
        chip = report.chip_id[: product.chip_id_size].hex()
        parts = {"blSPL": tcb.bootloader, "teeSPL": tcb.tee, "snpSPL": tcb.snp}
        parts |= {"ucodeSPL": tcb.microcode} | ({} if tcb.fmc is None else {"fmcSPL": tcb.fmc})
        query = "&".join(f"{name}={value:02d}" for name, value in parts.items())
        return self._get(f"vcek/v1/{product.value}/{chip}?{query}", Certificate.decode)

    def chain(self, product: Product, kind: str) -> tuple[bytes, bytes]:
        """ASK (or ASVK) and ARK, DER. ``kind`` is ``vcek`` or ``vlek``."""
        return _pair(self._get(f"{kind}/v1/{product.value}/cert_chain", _pair))

    def revocation_list(self, product: Product, kind: str) -> bytes:
        """The current list, DER; a cached one that has run out is fetched again if it can be."""
        path = f"{kind}/v1/{product.value}/crl"
        content = self._get(path, RevocationList.decode)
        if self.fetcher is not None and self._has_run_out(content):
            content = self._fetch(path, RevocationList.decode)
        return content

    def _get(self, path: str, decode: Callable[[bytes], object]) -> bytes:
        cached = self._cached(path)
        return cached.read_bytes() if cached.exists() else self._fetch(path, decode)

    def _cached(self, path: str) -> Path:
        return self.cache / path.replace("/", "_").replace("?", "_").replace("&", "_")

    def _fetch(self, path: str, decode: Callable[[bytes], object]) -> bytes:
        """Only what decodes is kept, so that one odd answer does not stay in the cache for ever."""
        if self.fetcher is None:
            raise HostCannot(f"AMD's '{path}' is not at hand", hint=_OFFLINE_HINT)
        content = self._ask(self.fetcher, BASE_URL + path)
        decode(content)
        _write(self._cached(path), content)
        return content

    def _ask(self, fetcher: Fetcher, url: str) -> bytes:
        """One URL, waiting as long as the service says that there were too many requests."""
        deadline = self.clock() + self.deadline_s
        wait_s = _SHORTEST_WAIT_S
        while (answer := fetcher(url, timeout_s=REQUEST_TIMEOUT_S)).status == _TOO_MANY:
            pause_s = answer.retry_after_s or wait_s
            if self.clock() + pause_s > deadline:
                raise TimedOut(
                    f"AMD's key distribution service still limits requests after "
                    f"{self.deadline_s:g} s",
                    hint=_OFFLINE_HINT,
                )
            self.sleep(pause_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        if answer.status != _OK or not answer.body:
            raise HostCannot(f"AMD's key distribution service answered {answer.status} to '{url}'")
        return answer.body


def _pair(content: bytes) -> tuple[bytes, bytes]:
    """ASK and ARK, DER, from the service's PEM."""
    try:
        ask, ark = x509.load_pem_x509_certificates(content)
    except ValueError as exc:
        raise AttestationFailed("the certificate chain is not two certificates") from exc
    return ask.public_bytes(Encoding.DER), ark.public_bytes(Encoding.DER)


def _product(report: SnpReport, table: CertificateTable) -> Product:
    """By the report; a version 2 one leaves it to the certificates that are there."""
    if report.product is not None:
        return report.product
    if report.looks_like_turin:
        return Product.TURIN
    names = {product.value: product for product in Product}
    for content in filter(None, (table.vcek, table.vlek, table.ark)):
        if product := names.get(_product_name(Certificate.decode(content)).split("-")[0]):
            return product
    raise HostCannot(
        "a version 2 report does not say which product it comes from",
        hint="give the VCEK, or ASK and ARK, with --certs",
    )


def _product_name(certificate: Certificate) -> str:
    """In a leaf AMD says it in an extension, in a root by the name."""
    if OID_PRODUCT in certificate.extensions:
        return Endorsement.decode(certificate.extensions).product_name
    return certificate.common_name.removeprefix("ARK-")


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=".new-") as scratch:
        temporary = Path(scratch) / "content"
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
