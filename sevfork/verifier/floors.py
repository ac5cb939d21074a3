"""Floors in time for an image's policy: what its guests accept nothing older than.

They come from today's revocation lists and collateral, which the builder has at hand, so that each
can be met; one that could not be is refused while it can still be changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from msgspec.structs import replace

from sevfork.attest.defaults import HARDWARE_FLOORS, Floors
from sevfork.attest.policy import Revocation
from sevfork.attest.snp.certificates import AMD_ROOTS
from sevfork.attest.snp.report import Product
from sevfork.attest.tdx.chain import INTEL_ROOT_SHA256
from sevfork.attest.tdx.collateral import SignedJson
from sevfork.attest.vendor_facts import TcbLevel
from sevfork.attest.x509 import Certificate, RevocationList, Scheme
from sevfork.errors import AttestationFailed, UsageError
from sevfork.technology import Technology
from sevfork.verifier.amd import amd_authorities
from sevfork.verifier.certificate_files import CertificateFile
from sevfork.verifier.pool import Pool


def floors_for(
    technology: Technology,
    files: Iterable[CertificateFile],
    now: datetime,
    *,
    crl: Revocation | None = None,
    alias_check: bool | None = None,
    tcb: TcbLevel | None = None,
) -> Floors | None:
    """None for the simulated processor, which has none of this.

    Raise UsageError for a floor that cannot be met, and if SEV-SNP's is not decided: whether its
    guests want a revocation list cannot be guessed, since it is the host that has to bring it.
    """
    pool = Pool.read(files, now)
    given = bool(pool.lists or pool.documents)
    if technology is Technology.TDX:
        _refuse("--crl", crl is not None, "TDX: the lists are a part of Intel's collateral")
        _refuse("--alias-check", alias_check is not None, "TDX: it is a bit of AMD's reports")
        _refuse("--tcb", tcb is not None, "TDX: Intel's collateral says what is up to date")
        return _of_intel(pool, now) if given else HARDWARE_FLOORS
    if technology is Technology.SIMULATED:
        asked = given or any(each is not None for each in (crl, alias_check, tcb))
        _refuse("a floor", asked, "the simulated secure processor, which signs nothing of the kind")
        return None
    floors = replace(
        HARDWARE_FLOORS, alias_check=alias_check is not False, tcb=tcb or HARDWARE_FLOORS.tcb
    )
    return replace(floors, crl=_decided(crl, given), crl_numbers=_of_amd(pool, now))


def _refuse(what: str, asked: bool, why: str) -> None:
    if asked:
        raise UsageError(f"{what} is not for {why}")


def _decided(crl: Revocation | None, given: bool) -> Revocation:
    if crl is None and not given:
        raise UsageError(
            "shall guests accept evidence without AMD's revocation list?",
            hint="give today's lists with --floors, or say '--crl required' or '--crl optional'",
        )
    if crl == "optional" and given:
        raise UsageError("a floor under a list that may be left out is none: '--crl optional'")
    return crl or "required"


def _of_amd(pool: Pool, now: datetime) -> Mapping[Product, int]:
    numbers: dict[Product, int] = {}
    for revocations in pool.lists:
        product = _product(revocations)
        if not revocations.validity.covers(now):
            span = revocations.validity
            raise UsageError(f"no guest could meet the list of {product.value}: it is valid {span}")
        if revocations.number is None:
            raise UsageError(f"the revocation list of {product.value} has no number")
        numbers[product] = max(revocations.number, numbers.get(product, 0))
    if pool.documents and not numbers:
        raise UsageError("--floors has no revocation list of AMD")
    return numbers


def _product(revocations: RevocationList) -> Product:
    """Whose root signed it: of the published ones, and no other."""
    arks = {ark.fingerprint: ark for ark in amd_authorities()}
    for product, fingerprint in AMD_ROOTS.items():
        if _is_signed(revocations, arks[fingerprint]):
            return product
    raise UsageError("a revocation list of --floors is not signed by a root of AMD")


def _is_signed(revocations: RevocationList, ark: Certificate) -> bool:
    try:
        revocations.verify(ark, Scheme.AMD)
    except AttestationFailed:
        return False
    return True


def _of_intel(pool: Pool, now: datetime) -> Floors:
    """The lowest evaluation number of what was given, if it is not below the usual floor."""
    numbers = [_evaluation_number(document, now) for document in pool.documents]
    if not numbers:
        raise UsageError("--floors has no TCB info or QE identity of Intel")
    least = min(numbers)
    if least < HARDWARE_FLOORS.tcb_evaluation_number:
        raise UsageError(
            f"Intel's collateral is of TCB evaluation {least}: no guest could meet the floor of "
            f"{HARDWARE_FLOORS.tcb_evaluation_number} with it"
        )
    return replace(HARDWARE_FLOORS, tcb_evaluation_number=least)


def _evaluation_number(document: SignedJson, now: datetime) -> int:
    try:
        chain = document.verify()
        parsed = (
            document.as_tcb_info() if document.what == "TCB info" else document.as_qe_identity()
        )
    except AttestationFailed as exc:
        raise UsageError(f"the {document.what} of --floors is not Intel's: {exc.message}") from exc
    if chain.root.fingerprint != INTEL_ROOT_SHA256:
        raise UsageError(f"the {document.what} of --floors is not signed under Intel's root")
    if not parsed.validity.covers(now):
        raise UsageError(f"no guest could meet the {document.what}: it is valid {parsed.validity}")
    return parsed.tcb_evaluation_data_number
