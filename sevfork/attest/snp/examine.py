"""SNP evidence examined: chain, signature, TCB, chip, and every field against the policy.

The steps are those of ``docs/attestation.md``. The simulated secure processor is the same code:
another root, another product name, ``Technology.SIMULATED``.
"""

from __future__ import annotations

from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from sevfork.attest.evidence import Evidence
from sevfork.attest.policy import (
    SNP_PLATFORM_BITS,
    SNP_POLICY_BITS,
    Bits,
    Policy,
    SnpPolicy,
    version,
)
from sevfork.attest.snp.certificates import CertificateTable, Chain
from sevfork.attest.snp.report import (
    CHIP_ID_SIZE,
    POLICY_MUST_BE_ONE,
    Product,
    SigningKey,
    SnpReport,
    Tcb,
)
from sevfork.attest.verdict import Claims, Findings, LaunchIdentity
from sevfork.errors import AttestationFailed
from sevfork.technology import Technology

_NO_MIGRATION_AGENT = b"\xff" * 32
_POLICY_ABI_MASK = 0xFFFF


def examine(evidence: Evidence, policy: Policy, at: datetime, findings: Findings) -> Claims:
    """Note every check of an SNP report; raise AttestationFailed if it cannot be read at all."""
    if policy.snp is None:
        raise AttestationFailed("the policy has no section 'snp'")
    # (1) Take the report apart. Its fields are claims of whoever sent it.
    report = SnpReport.parse(evidence.report)
    _facts(report, findings)
    # (2) to (7) Who signed it, for which chip and firmware.
    chain = _chain(evidence, report, findings)
    if chain is not None:
        product = _check_product(chain, report, evidence.technology, findings)
        _check_certificates(chain, report, policy, at, findings)
        _check_revocation(chain, policy.snp, at, findings)
        _check_signature(chain, report, findings)
        _check_tcb(chain, report, product, policy.snp, findings)
        _check_chip(chain, report, product, policy.snp, findings)
    # (8) and (9) What it says, against the policy.
    _check_guest(report, policy.snp, findings)
    _check_platform(report, policy.snp, findings)
    _check_measured(report, policy.snp, findings)
    return _claims(report, evidence.technology)


def _claims(report: SnpReport, technology: Technology) -> Claims:
    parts = (
        ("measurement", report.measurement),
        ("policy", report.policy.to_bytes(8, "little")),
        ("id key", report.id_key_digest),
        ("author key", report.author_key_digest),
    )
    return Claims(
        technology=technology,
        report_data=report.report_data,
        launch_config_hash=report.host_data,
        launch_identity=LaunchIdentity(technology, parts),
        report_id=report.report_id,
        chip_id=report.chip_id if any(report.chip_id) else None,
    )


def _facts(report: SnpReport, findings: Findings) -> None:
    bits = _bit_names(report.policy & ~_POLICY_ABI_MASK & ~POLICY_MUST_BE_ONE, SNP_POLICY_BITS)
    findings.fact("report version", str(report.version))
    findings.fact("signing key", report.signing_key.label)
    findings.fact("guest policy", f"{report.policy:#x} ({', '.join(bits) or 'no bits'})")
    findings.fact("measurement", report.measurement.hex())
    findings.fact("host data", report.host_data.hex())
    findings.fact("report data", report.report_data.hex())
    findings.fact("report id", report.report_id.hex())
    findings.fact("chip id", report.chip_id.hex())
    findings.fact("firmware", f"{report.current_firmware}, committed {report.committed_firmware}")


def _chain(evidence: Evidence, report: SnpReport, findings: Findings) -> Chain | None:
    wanted = f"{report.signing_key.name}, ASK and ARK"
    try:
        chain = Chain.of(CertificateTable.decode(evidence.certificates), report.signing_key)
    except AttestationFailed as exc:
        findings.check("certificates", wanted, exc.message, passed=False)
        return None
    findings.check("certificates", wanted, "all of them", passed=True)
    return chain


def _check_product(
    chain: Chain, report: SnpReport, technology: Technology, findings: Findings
) -> Product | None:
    """(2) Root, leaf and report speak of one product, and of a simulated one only if simulated."""
    product = chain.product
    name = product.value if product else "unknown"
    simulated = technology is Technology.SIMULATED
    findings.check(
        "product", "a simulated one" if simulated else "a genuine one", name,
        product is not None and (product is Product.SIMULATED) == simulated,
    )  # fmt: skip
    leaf = chain.endorsement.product_name
    findings.check("product of the certificate", name, leaf, leaf.split("-")[0] == name)
    stated = _stated_product(report, product)
    findings.check("product of the report", name, stated, stated == name)
    return product


def _stated_product(report: SnpReport, product: Product | None) -> str:
    """By CPUID; version 2 has none and tells only Turin from the others, by a short chip id."""
    if report.cpuid is not None:
        try:
            return Product.from_cpuid(*report.cpuid[:2]).value
        except AttestationFailed as exc:
            return exc.message
    if report.looks_like_turin is None:
        return "undecidable: version 2 and a zero chip id"
    if product is None or report.looks_like_turin != (product is Product.TURIN):
        return Product.TURIN.value if report.looks_like_turin else "not Turin"
    return product.value


def _check_certificates(
    chain: Chain, report: SnpReport, policy: Policy, at: datetime, findings: Findings
) -> None:
    """(3) The chain ends in a root of the policy, and is signed, in time and named throughout."""
    findings.accepted("root", policy.roots, chain.ark.fingerprint)
    product = chain.product.value if chain.product else "?"
    vlek = report.signing_key is SigningKey.VLEK
    names = [f"ARK-{product}", f"SEV-VLEK-{product}" if vlek else f"SEV-{product}"]
    names.append("SEV-VLEK" if vlek else "SEV-VCEK")
    for (role, certificate), name in zip(chain.members, names, strict=True):
        got = certificate.common_name
        findings.check(f"name of the {role}", name, got, got == name)
        period = f"{certificate.not_before:%Y-%m-%d} to {certificate.not_after:%Y-%m-%d}"
        valid = certificate.not_before <= at <= certificate.not_after
        findings.check(f"validity of the {role}", f"valid at {_when(at)}", period, valid)
    ark, ask, leaf = (certificate for _, certificate in chain.members)
    for name, child, issuer in (("ARK", ark, ark), ("ASK", ask, ark), ("leaf", leaf, ask)):
        good = child.issued_by(issuer) and issuer.may_issue
        wanted = "signed by its issuer, which may issue certificates"
        findings.check(f"signature on the {name}", wanted, "good" if good else "not so", good)
    usable = not leaf.may_issue and isinstance(leaf.key, ec.EllipticCurvePublicKey)
    findings.check("leaf", "no issuer, EC key", "as wanted" if usable else "other", usable)


def _check_revocation(chain: Chain, snp: SnpPolicy, at: datetime, findings: Findings) -> None:
    """(4) The root's own, current revocation list does not name the intermediate."""
    crl = chain.crl
    if crl is None:
        if snp.crl == "required":
            findings.check("revocation list", "one", "none", passed=False)
        else:
            findings.unchecked("revocation: no revocation list was given")
        return
    good = crl.issued_by(chain.ark)
    findings.check("revocation list", "signed by the ARK", "so" if good else "not so", good)
    until = f"{crl.next_update:%Y-%m-%d}" if crl.next_update else "nothing"
    current = crl.next_update is not None and crl.last_update <= at <= crl.next_update
    period = f"{crl.last_update:%Y-%m-%d} to {until}"
    findings.check("validity of the revocation list", f"valid at {_when(at)}", period, current)
    number = -1 if crl.number is None else crl.number
    wanted = f"at least {snp.minimum_crl_number}"
    findings.check("revocation list number", wanted, str(number), number >= snp.minimum_crl_number)
    revoked = chain.intermediate.serial in crl.revoked
    findings.check("ASK", "not revoked", "revoked" if revoked else "not revoked", not revoked)
    findings.unchecked("revocation of the leaf: AMD's lists cannot name a leaf (its serial is 0)")


def _check_signature(chain: Chain, report: SnpReport, findings: Findings) -> None:
    """(5) ECDSA P-384 with SHA-384 over the first 0x2A0 bytes, exactly as received."""
    good = _signature_is_good(chain, report)
    got = "good" if good else "bad"
    findings.check("signature", f"good, by the {report.signing_key.name}", got, good)


def _signature_is_good(chain: Chain, report: SnpReport) -> bool:
    key = chain.leaf.key
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        return False
    signature = encode_dss_signature(report.signature_r, report.signature_s)
    try:
        key.verify(signature, report.signed_bytes, ec.ECDSA(SHA384()))
    except InvalidSignature:
        return False
    return True


def _check_tcb(
    chain: Chain, report: SnpReport, product: Product | None, snp: SnpPolicy, findings: Findings
) -> None:
    """(6) The TCB is the certificate's: the report's own copy only has to agree with it."""
    minimum = _minimum_tcb(product, snp)
    certified = chain.endorsement.tcb
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


def _minimum_tcb(product: Product | None, snp: SnpPolicy) -> Tcb | None:
    minimum = snp.minimum_tcb.get(product.value) if product else None
    if minimum is None:
        return None
    return Tcb(minimum.bootloader, minimum.tee, minimum.snp, minimum.microcode, minimum.fmc)


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
    chain: Chain, report: SnpReport, product: Product | None, snp: SnpPolicy, findings: Findings
) -> None:
    """(7) The chip is the certificate's, is accepted, and is not on the list of bad ones."""
    masked = not any(report.chip_id)
    findings.check(
        "chip id", "not zero" if not snp.allow_masked_chip_id else "any", report.chip_id.hex(),
        snp.allow_masked_chip_id or not masked,
    )  # fmt: skip
    _check_hardware_id(chain, report, product, findings)
    findings.accepted("accepted chips", snp.chips, report.chip_id.hex())
    if snp.denied_chips:
        known = not masked and report.chip_id.hex() not in snp.denied_chips
        got = report.chip_id.hex()
        findings.check("denied chips", f"none of {len(snp.denied_chips)}", got, known)
    if report.signing_key is SigningKey.VLEK:
        csp_id = chain.endorsement.csp_id
        findings.check("cloud provider", "named", csp_id or "nothing", csp_id is not None)
        findings.accepted("accepted cloud providers", snp.csp_ids, csp_id or "")


def _check_hardware_id(
    chain: Chain, report: SnpReport, product: Product | None, findings: Findings
) -> None:
    if report.signing_key is SigningKey.VLEK:
        findings.unchecked("chip id against the certificate: a VLEK names no chip")
    elif not any(report.chip_id):
        findings.unchecked("chip id against the certificate: the report's chip id is zero")
    else:
        size = product.chip_id_size if product else CHIP_ID_SIZE
        hardware_id = chain.endorsement.hardware_id or b""
        same = len(hardware_id) == size and report.chip_id == hardware_id.ljust(CHIP_ID_SIZE, b"\0")
        got = hardware_id.hex() or "nothing"
        findings.check("hardware id of the certificate", report.chip_id.hex(), got, same)


def _check_guest(report: SnpReport, snp: SnpPolicy, findings: Findings) -> None:
    """(8) How the guest was launched, and from which privilege level the report was asked for."""
    least = snp.minimum_report_version
    findings.check("report version", f"at least {least}", str(report.version),
                   report.version >= least)  # fmt: skip
    findings.accepted("signing key", snp.signing_keys, report.signing_key.label)
    masked = "masked: the firmware was told not to sign" if report.key_masked else "not masked"
    findings.check("chip key", "not masked", masked, not report.key_masked)
    findings.accepted("VMPL", tuple(map(str, snp.vmpl)), str(report.vmpl))
    bits = report.policy & ~_POLICY_ABI_MASK & ~POLICY_MUST_BE_ONE
    check_bits(findings, "guest policy", snp.guest_policy, bits, SNP_POLICY_BITS)
    abi, least_abi = report.policy_abi, version("minimum_abi", snp.minimum_abi, 2)
    got = f"{abi[0]}.{abi[1]}"
    findings.check("firmware ABI", f"at least {snp.minimum_abi}", got, abi >= least_abi)
    svn = report.guest_svn
    wanted = f"at least {snp.minimum_guest_svn}"
    findings.check("guest SVN", wanted, str(svn), svn >= snp.minimum_guest_svn)
    if "migration-agent" not in _bit_names(bits, SNP_POLICY_BITS):
        findings.equal("migration agent's report id", _NO_MIGRATION_AGENT, report.report_id_ma)


def _check_platform(report: SnpReport, snp: SnpPolicy, findings: Findings) -> None:
    check_bits(findings, "platform", snp.platform, report.platform_info, SNP_PLATFORM_BITS)
    if not snp.required_mitigations:
        findings.unchecked("mitigation vectors: the policy requires none")
        return
    for name, vector in (
        ("mitigations at launch", report.launch_mitigations),
        ("mitigations now", report.current_mitigations),
    ):
        got = f"{vector:#x}" if vector is not None else f"not in version {report.version}"
        missing = vector is None or snp.required_mitigations & ~vector
        findings.check(name, f"all of {snp.required_mitigations:#x}", got, not missing)


def _check_measured(report: SnpReport, snp: SnpPolicy, findings: Findings) -> None:
    """(9) What was launched, as far as the policy names it."""
    findings.accepted("measurement", snp.measurements, report.measurement.hex())
    findings.accepted("host data", snp.host_data, report.host_data.hex())
    findings.accepted("family id", snp.family_ids, report.family_id.hex())
    findings.accepted("image id", snp.image_ids, report.image_id.hex())
    findings.accepted("id key", snp.id_keys, report.id_key_digest.hex())
    findings.accepted("author key", snp.author_keys, report.author_key_digest.hex())


def check_bits(
    findings: Findings, name: str, rule: Bits, value: int, names: dict[int, str]
) -> None:
    """No bit beyond the allowed ones, and each required one; a bit without a name needs ``any``."""
    present = _bit_names(value, names)
    got = ", ".join(present) or "none"
    if rule.allowed == "any":
        findings.unchecked(f"{name}: the policy allows any bit (set: {got})")
    else:
        wanted = "at most: " + (", ".join(rule.allowed) or "none")
        findings.check(name, wanted, got, set(present) <= set(rule.allowed))
    if rule.required:
        wanted = "at least: " + ", ".join(rule.required)
        findings.check(f"{name}, required", wanted, got, set(rule.required) <= set(present))


def _bit_names(value: int, names: dict[int, str]) -> list[str]:
    return [names.get(bit, f"bit {bit}") for bit in range(64) if value >> bit & 1]


def _when(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}Z"
