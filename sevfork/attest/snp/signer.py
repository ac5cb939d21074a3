"""Who signed an SNP report: chain, revocation, signature, TCB and chip, steps (2) to (7)."""

from __future__ import annotations

from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384

from sevfork.attest.evidence import Evidence
from sevfork.attest.policy import Policy, SnpPolicy, version
from sevfork.attest.snp.certificates import CertificateTable, ReportSigner
from sevfork.attest.snp.report import CHIP_ID_SIZE, Cpuid, Product, SigningKey, SnpReport, Tcb
from sevfork.attest.verdict import Findings
from sevfork.attest.x509 import Certificate, Chain, Scheme, ecdsa_verifies
from sevfork.errors import AttestationFailed
from sevfork.technology import Technology


def check_signer(
    evidence: Evidence, report: SnpReport, policy: Policy, at: datetime, findings: Findings
) -> None:
    """Note every check of the certificates beside a report, and of what they say of it."""
    signer = findings.obtain(
        "certificates",
        f"{report.signing_key.name}, ASK and ARK",
        lambda: _signer(evidence, report),
        lambda _: "all of them",
    )
    snp = policy.snp
    if signer is None or snp is None:
        return
    product = _check_product(signer, report, evidence.technology, findings)
    _check_certificates(signer, report, policy, at, findings)
    _check_revocation(signer, snp, at, findings)
    _check_signature(signer, report, findings)
    _check_tcb(signer, report, product, snp, findings)
    _check_chip(signer, report, product, snp, findings)


def _signer(evidence: Evidence, report: SnpReport) -> ReportSigner:
    table = CertificateTable.decode(evidence.certificates)
    return ReportSigner.decode(table, report.signing_key)


def _check_product(
    signer: ReportSigner, report: SnpReport, technology: Technology, findings: Findings
) -> Product | None:
    """(2) Root, leaf and report speak of one product, and of a simulated one only if simulated."""
    product = signer.product
    name = product.value if product else "unknown"
    simulated = technology is Technology.SIMULATED
    findings.check(
        "product", "a simulated one" if simulated else "a genuine one", name,
        product is not None and (product is Product.SIMULATED) == simulated,
    )  # fmt: skip
    leaf = signer.endorsement.product_name
    findings.check("product of the certificate", name, leaf, leaf.split("-")[0] == name)
    if report.cpuid is None and report.looks_like_turin is None:
        findings.unchecked(
            "product of the report: version 2 with a zero chip id names none; the certificates do"
        )
        return product
    stated = _stated_product(report, product)
    findings.check("product of the report", name, stated, stated == name)
    return product


def _stated_product(report: SnpReport, product: Product | None) -> str:
    """By CPUID; version 2 has none and tells only Turin from the others, by a short chip id."""
    if report.cpuid is not None:
        try:
            return report.cpuid.product.value
        except AttestationFailed as exc:
            return exc.message
    if product is None or report.looks_like_turin != (product is Product.TURIN):
        return Product.TURIN.value if report.looks_like_turin else "not Turin"
    return product.value


def _check_certificates(
    signer: ReportSigner, report: SnpReport, policy: Policy, at: datetime, findings: Findings
) -> None:
    """(3) The chain ends in a root of the policy, and is signed, in time and named throughout."""
    findings.accepted("root", policy.roots, signer.chain.root.fingerprint)
    product = signer.product.value if signer.product else "?"
    vlek = report.signing_key is SigningKey.VLEK
    roles = {
        "ARK": f"ARK-{product}",
        "ASK": f"SEV-VLEK-{product}" if vlek else f"SEV-{product}",
        "leaf": "SEV-VLEK" if vlek else "SEV-VCEK",
    }
    links = dict(zip(reversed(roles), signer.chain.links(), strict=True))
    for role, name in roles.items():
        certificate = links[role][0]
        got = certificate.common_name
        findings.check(f"name of the {role}", name, got, got == name)
        findings.valid(f"validity of the {role}", certificate.validity, at)
    for role in roles:
        certificate, issuer = links[role]
        good = certificate.issued_by(issuer, Scheme.AMD) and issuer.may_issue
        wanted = "signed by its issuer, which may issue certificates"
        findings.check(f"signature on the {role}", wanted, "good" if good else "not so", good)
    leaf = signer.chain.leaf
    usable = not leaf.may_issue and isinstance(leaf.key, ec.EllipticCurvePublicKey)
    findings.check("leaf", "no issuer, EC key", "as wanted" if usable else "other", usable)


def _check_revocation(
    signer: ReportSigner, snp: SnpPolicy, at: datetime, findings: Findings
) -> None:
    """(4) The root's own, current revocation list does not name the intermediate."""
    crl = signer.crl
    if crl is None:
        _without_current_list("there is no revocation list", signer, snp, findings)
        return
    _, ask, ark = signer.chain.certificates
    findings.holds("revocation list", "signed by the ARK", lambda: crl.verify(ark, Scheme.AMD))
    if snp.crl == "required":
        findings.valid("validity of the revocation list", crl.validity, at)
    elif not crl.validity.covers(at):
        _without_current_list(f"the list is valid {crl.validity}", signer, snp, findings)
    number = -1 if crl.number is None else crl.number
    least = snp.minimum_crl_number
    if not isinstance(least, int):
        # A product without a number of its own has no floor: its lists count by themselves.
        least = least.get(signer.product.value, 0) if signer.product else 0
    findings.at_least("revocation list number", least, number)
    revoked = crl.names(ask)
    findings.check("ASK", "not revoked", "revoked" if revoked else "not revoked", not revoked)
    findings.unchecked("revocation of the leaf: AMD's lists cannot name a leaf (its serial is 0)")


def _without_current_list(
    why: str, signer: ReportSigner, snp: SnpPolicy, findings: Findings
) -> None:
    """An expired list is no better than none, so the policy has one answer to both."""
    if snp.crl == "required":
        findings.check("revocation list", "one", "none", passed=False)
    elif signer.product is Product.SIMULATED:
        findings.unchecked("revocation: the simulated secure processor has no revocation lists")
    else:
        findings.warn(f"revocation: {why}, so nothing says that the ASK is not revoked now")


def _check_signature(signer: ReportSigner, report: SnpReport, findings: Findings) -> None:
    """(5) ECDSA P-384 with SHA-384 over the first 0x2A0 bytes, exactly as received."""
    good = is_signed_by(signer.chain, report)
    got = "good" if good else "bad"
    findings.check("signature", f"good, by the {report.signing_key.name}", got, good)


def is_signed_by(chain: Chain, report: SnpReport) -> bool:
    """Whether the chain's leaf made the report's signature, whatever the chain is worth."""
    try:
        key = chain.leaf_key(ec.SECP384R1)
    except AttestationFailed:
        return False
    r, s = report.signature_r, report.signature_s
    return ecdsa_verifies(key, r, s, report.signed_bytes, SHA384())


def has_signed(leaf: bytes, report: SnpReport) -> bool:
    """The same of an encoded certificate, which may be anything."""
    try:
        chain = Chain("leaf", (Certificate.decode(leaf),))
    except AttestationFailed:
        return False
    return is_signed_by(chain, report)


def _check_tcb(
    signer: ReportSigner,
    report: SnpReport,
    product: Product | None,
    snp: SnpPolicy,
    findings: Findings,
) -> None:
    """(6) The TCB is the certificate's: the report's own copy only has to agree with it."""
    minimum = _minimum_tcb(product, snp, report.cpuid)
    certified = signer.endorsement.tcb
    wanted = f"at least {minimum}" if minimum else "a product that the policy has a minimum for"
    enough = minimum is not None and certified.covers(minimum)
    if minimum is not None and not any(minimum.encode()):
        findings.unchecked("minimum TCB: the policy's is zero, which every firmware has")
    findings.check("TCB of the certificate", wanted, str(certified), enough)
    if product is None:
        return
    try:
        reported, current, committed, launch = (
            Tcb.decode(data, product)
            for data in (
                report.reported_tcb, report.current_tcb, report.committed_tcb, report.launch_tcb,
            )
        )  # fmt: skip
    except AttestationFailed as exc:
        findings.check("TCBs of the report", "well formed", exc.message, passed=False)
        return
    same = reported == certified
    findings.check("reported TCB", f"the certificate's: {certified}", str(reported), same)
    enough = minimum is not None and launch.covers(minimum)
    findings.check("TCB at launch", wanted, str(launch), enough)
    _check_firmware(report, current, committed, snp, findings)


def _minimum_tcb(product: Product | None, snp: SnpPolicy, cpuid: Cpuid | None) -> Tcb | None:
    """Microcode is numbered by model and stepping: a Bergamo's 19h is newer than a Genoa's 53h."""
    minimum = snp.minimum_tcb.get(product.value) if product else None
    if minimum is None:
        return None
    microcode = minimum.microcode
    if cpuid is not None:
        microcode = minimum.microcode_by_stepping.get(cpuid.model_and_stepping, microcode)
    return Tcb(minimum.bootloader, minimum.tee, minimum.snp, microcode, minimum.fmc)


def _check_firmware(
    report: SnpReport, current: Tcb, committed: Tcb, snp: SnpPolicy, findings: Findings
) -> None:
    """Provisional firmware runs but is not committed: the host can still go back from it."""
    least = version("minimum_firmware", snp.minimum_firmware, 3)
    firmware = report.committed_firmware
    wanted = f"at least {snp.minimum_firmware}"
    findings.check("committed firmware", wanted, str(firmware), firmware.numbers >= least)
    if snp.allow_provisional_firmware:
        good, wanted = current.covers(committed), f"at least the committed one: {committed}"
    else:
        good = current == committed and report.current_firmware == firmware
        wanted = f"exactly the committed one: {committed}, firmware {firmware}"
    got = f"{current}, firmware {report.current_firmware}" + ("" if good else " (provisional)")
    findings.check("running TCB", wanted, got, good)


def _check_chip(
    signer: ReportSigner,
    report: SnpReport,
    product: Product | None,
    snp: SnpPolicy,
    findings: Findings,
) -> None:
    """(7) The chip is the certificate's, is accepted, and is not on the list of bad ones."""
    masked = not any(report.chip_id)
    findings.check(
        "chip id", "not zero" if not snp.allow_masked_chip_id else "any", report.chip_id.hex(),
        snp.allow_masked_chip_id or not masked,
    )  # fmt: skip
    _check_hardware_id(signer, report, product, findings)
    findings.accepted("accepted chips", snp.chips, report.chip_id.hex())
    if snp.denied_chips:
        known = not masked and report.chip_id.hex() not in snp.denied_chips
        got = report.chip_id.hex()
        findings.check("denied chips", f"none of {len(snp.denied_chips)}", got, known)
    if report.signing_key is SigningKey.VLEK:
        csp_id = signer.endorsement.csp_id
        findings.check("cloud provider", "named", csp_id or "nothing", csp_id is not None)
        findings.accepted("accepted cloud providers", snp.csp_ids, csp_id or "")


def _check_hardware_id(
    signer: ReportSigner, report: SnpReport, product: Product | None, findings: Findings
) -> None:
    if report.signing_key is SigningKey.VLEK:
        findings.unchecked("chip id against the certificate: a VLEK names no chip")
    elif not any(report.chip_id):
        findings.unchecked("chip id against the certificate: the report's chip id is zero")
    else:
        size = product.chip_id_size if product else CHIP_ID_SIZE
        hardware_id = signer.endorsement.hardware_id or b""
        same = len(hardware_id) == size and report.chip_id == hardware_id.ljust(CHIP_ID_SIZE, b"\0")
        got = hardware_id.hex() or "nothing"
        findings.check("hardware id of the certificate", report.chip_id.hex(), got, same)
