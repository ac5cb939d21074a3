"""Intel's provisioning certification service (PCS, API v4), or a local cache of it (PCCS).

What is kept of an answer is what ``curl -i`` would have saved, or a list in DER, so that the cache
is a folder for ``--certs`` too. Sources: Intel PCS API v4; the PCCS of Intel's DCAP, whose lists
are in hexadecimal and which hands out the root's list itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from msgspec.structs import replace

from sevfork.attest.evidence import Evidence
from sevfork.attest.tdx.collateral import Collateral, SignedJson
from sevfork.attest.tdx.examination import Subject
from sevfork.attest.tdx.tcb import Dated
from sevfork.attest.x509 import RevocationList
from sevfork.errors import AttestationFailed, UsageError
from sevfork.lifecycle.gathered import Gathered
from sevfork.verifier.encodings import octets
from sevfork.verifier.gathering import Gathering
from sevfork.verifier.http import Answer
from sevfork.verifier.pcs import CHAIN_HEADERS, document_from_answer, split_http
from sevfork.verifier.service import Service, Until, Wanted

INTEL_URL = "https://api.trustedservices.intel.com/"
INTEL_ROOT_LIST_URL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
_API = "sgx/certification/v4/"
_PLATFORM_CA = "Intel SGX PCK Platform CA"
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Provisioning:
    """Collateral by kind of platform. ``root_list_url`` is not the service's own at Intel."""

    service: Service
    base_url: str = INTEL_URL
    root_list_url: str = INTEL_ROOT_LIST_URL

    @classmethod
    def at(cls, service: Service, pccs_url: str | None) -> Provisioning:
        """Intel's; or a PCCS, whose URL may be the one of ``sgx_default_qcnl.conf``."""
        if pccs_url is None:
            return cls(service)
        if not pccs_url.startswith(("https://", "http://")):
            raise UsageError(
                f"'{pccs_url}' is not the URL of a PCCS such as https://localhost:8081"
            )
        base_url = pccs_url.rstrip("/").removesuffix(_API.rstrip("/")).rstrip("/") + "/"
        return cls(service, base_url, f"{base_url}{_API}rootcacrl")

    def gather(self, evidence: Evidence) -> Gathered:
        """The evidence with collateral, where all of that is to be had; its own is replaced then.

        Raises AttestationFailed if the quote cannot be read.
        """
        subject = Subject.decode(evidence.report)
        issuer = subject.pck.certificates[1:2]
        if not issuer:
            raise AttestationFailed("the quote's PCK chain has no issuer in it")
        ca = "platform" if issuer[0].common_name == _PLATFORM_CA else "processor"
        gathering = Gathering()
        contents = [
            gathering.get(self.service, wanted)
            for wanted in (
                self.tcb_info(subject.platform.fmspc.hex()),
                self.qe_identity(),
                self.root_list(),
                self.pck_list(ca),
            )
        ]
        if not all(contents):
            return gathering.gathered(evidence)
        tcb, qe, root_list, pck_list = contents
        collateral = Collateral(_document(tcb), _document(qe), root_list, pck_list)
        return gathering.gathered(replace(evidence, certificates=collateral.encode()))

    def tcb_info(self, fmspc: str) -> Wanted:
        url = f"{self.base_url}tdx/certification/v4/tcb?fmspc={fmspc.upper()}"
        until = _until(SignedJson.as_tcb_info)
        return Wanted(f"TCB info of {fmspc}", url, f"tcb-{fmspc}.http", until, _as_saved)

    def qe_identity(self) -> Wanted:
        url = f"{self.base_url}tdx/certification/v4/qe/identity"
        until = _until(SignedJson.as_qe_identity)
        return Wanted("identity of the quoting enclave", url, "qe-identity.http", until, _as_saved)

    def root_list(self) -> Wanted:
        what = "revocation list of Intel's root"
        return Wanted(what, self.root_list_url, "root.crl", _next_update, _as_der)

    def pck_list(self, ca: str) -> Wanted:
        """``ca``: ``platform`` or ``processor``."""
        url = f"{self.base_url}{_API}pckcrl?ca={ca}&encoding=der"
        what = f"revocation list of Intel's {ca} CA"
        return Wanted(what, url, f"pck-{ca}.crl", _next_update, _as_der)


def _as_saved(answer: Answer) -> bytes:
    """With the header that has the signer's chain, without which the text is worth nothing."""
    chains = [(name, value) for name, value in answer.headers.items() if name in CHAIN_HEADERS]
    if not chains:
        raise AttestationFailed("there is no chain of its signer in the headers")
    name, value = chains[0]
    return f"HTTP/1.1 200 OK\r\n{name}: {value}\r\n\r\n".encode() + answer.body


def _as_der(answer: Answer) -> bytes:
    return RevocationList.decode(octets(answer.body)).der


def _document(saved: bytes) -> SignedJson:
    return document_from_answer(*split_http(saved))


def _until(read: Callable[[SignedJson], Dated]) -> Until:
    """Read before it is verified, but only to know when to ask again."""

    def until(saved: bytes) -> datetime:
        return read(_document(saved)).next_update

    return until


def _next_update(crl: bytes) -> datetime:
    """A list that does not say has run out."""
    return RevocationList.decode(crl).validity.end or _LONG_AGO
