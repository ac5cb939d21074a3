"""AMD's key distribution service, for certificates that did not come with a report. Host only.

Source: AMD 57230, "VCEK Certificate and KDS Interface Specification".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec.structs import replace

from sevfork.attest.evidence import Evidence
from sevfork.attest.snp.certificates import OID_PRODUCT, CertificateTable, Endorsement
from sevfork.attest.snp.report import Product, SigningKey, SnpReport, Tcb
from sevfork.attest.snp.signer import has_signed
from sevfork.attest.x509 import Certificate, RevocationList, well_formed
from sevfork.errors import AttestationFailed, HostCannot
from sevfork.lifecycle.gathered import Gathered
from sevfork.verifier.gathering import Gathering
from sevfork.verifier.service import Service, Until, Wanted

BASE_URL = "https://kdsintf.amd.com/"
TITLE = "AMD's key distribution service"
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class KeyDistribution:
    """Certificates and revocation lists by product."""

    service: Service
    base_url: str = BASE_URL

    def gather(self, evidence: Evidence) -> Gathered:
        """The evidence with what its table lacks, and a revocation list that has not run out.

        Raises AttestationFailed if the report or its table does not parse.
        """
        gathering = Gathering()
        try:
            table = self._completed(gathering, evidence)
        except HostCannot as exc:
            gathering.lacks(exc)
            return gathering.gathered(evidence)
        return gathering.gathered(replace(evidence, certificates=table.encode()))

    def _completed(self, gathering: Gathering, evidence: Evidence) -> CertificateTable:
        report = SnpReport.decode(evidence.report)
        table = CertificateTable.decode(evidence.certificates)
        product = _product(report, table)
        table = self._with_leaf(gathering, table, report, product)
        kind = report.signing_key.label
        if not (table.ask and table.ark):
            chain = gathering.get(self.service, self.chain(product, kind))
            ask, ark = _pair(chain) if chain else (b"", b"")
            table = replace(table, ask=table.ask or ask, ark=table.ark or ark)
        if not table.crl or not self.service.will_do(_next_update(table.crl)):
            crl = gathering.get(self.service, self.revocation_list(product, kind))
            table = replace(table, crl=crl or table.crl)
        return table

    def _with_leaf(
        self, gathering: Gathering, table: CertificateTable, report: SnpReport, product: Product
    ) -> CertificateTable:
        if report.signing_key is SigningKey.VLEK and not table.vlek:
            words = "a VLEK certificate is the cloud provider's to hand out, not AMD's"
            gathering.lacks(HostCannot(words))
        if report.signing_key is not SigningKey.VCEK or has_signed(table.vcek, report):
            return table
        vcek = gathering.get(self.service, self.vcek(product, report))
        return replace(table, vcek=vcek or table.vcek)

    def vcek(self, product: Product, report: SnpReport) -> Wanted:
        """The chip's certificate for the TCB that the report says, DER."""
        tcb = Tcb.decode(report.reported_tcb, product)
        chip = report.chip_id[: product.chip_id_size].hex()
        parts = {"blSPL": tcb.bootloader, "teeSPL": tcb.tee, "snpSPL": tcb.snp}
        parts |= {"ucodeSPL": tcb.microcode} | ({} if tcb.fmc is None else {"fmcSPL": tcb.fmc})
        query = "&".join(f"{name}={value:02d}" for name, value in parts.items())
        path = f"vcek/v1/{product.value}/{chip}?{query}"
        until = _for_ever(Certificate.decode)
        return self._wanted("the VCEK of this chip and firmware", path, until)

    def chain(self, product: Product, kind: str) -> Wanted:
        """ASK (or ASVK) and ARK. ``kind`` is ``vcek`` or ``vlek``."""

        what = f"ASK and ARK of {product.value} ({kind})"
        return self._wanted(what, f"{kind}/v1/{product.value}/cert_chain", _for_ever(_pair))

    def revocation_list(self, product: Product, kind: str) -> Wanted:
        what = f"AMD's revocation list for {product.value} ({kind})"
        return self._wanted(what, f"{kind}/v1/{product.value}/crl", _next_update)

    def _wanted(self, what: str, path: str, until: Until) -> Wanted:
        name = path.translate(str.maketrans("/?&", "___"))
        return Wanted(what, self.base_url + path, name, until)


def _for_ever(decode: Callable[[bytes], object]) -> Until:
    def until(content: bytes) -> None:
        decode(content)

    return until


def _next_update(crl: bytes) -> datetime:
    """A list that does not say has run out."""
    return RevocationList.decode(crl).validity.end or _LONG_AGO


def _pair(content: bytes) -> tuple[bytes, bytes]:
    """ASK and ARK, DER, from the service's PEM."""
    with well_formed("the certificate chain"):
        certificates = x509.load_pem_x509_certificates(content)
    if len(certificates) != 2:
        raise AttestationFailed("the certificate chain is not two certificates")
    ask, ark = certificates
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
