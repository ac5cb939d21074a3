"""What each field of a policy is for, in a line above it: for people who write one.

The reference is ``docs/attestation.md``; a test holds the two and the policy itself together.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

from sevfork.attest.bits import SNP_PLATFORM_BITS, SNP_POLICY_BITS, TDX_ATTRIBUTE_BITS
from sevfork.attest.tdx.tcb import TcbStatus
from sevfork.attest.vendor_facts import vendor_facts

HEAD = (
    "Every field has to be there: one that a policy does not speak of is an error. A list names",
    'all that is accepted, an empty one accepts nothing, and "any" is listed as not checked.',
)


def _bits(names: dict[int, str]) -> str:
    return ", ".join(names.values())


def _mitigations() -> str:
    """``2 for AMD-SB-3020, ...``: the value of each bit that a bulletin has."""
    known = (
        f"{1 << each.bit} for {' and '.join(each.bulletins)}"
        + (f" on {', '.join(each.products)}" if each.products else "")
        for each in vendor_facts().mitigations
    )
    return ", ".join(known)


# By table and name, or by name alone where it means the same everywhere.
COMMENTS = {
    "schema": "the version of this format",
    # an image's own
    "fork": "who may fork: the holder of a token of the owner (owner), or anyone",
    "launch": "a peer has to be of this very launch; there is no other choice",
    "chip": "where a peer may run: same, any, or a list of chip ids",
    "offer_lifetime_s": "how long an offer to a child is good for",
    "image_key_lifetime_s": "how long the key of a sealed image is kept for children to come",
    "warm_lifetime_s": "how long a warm child may wait to be called, from its offer on",
    # of both technologies
    "technologies": "simulated (not confidential), sev-snp, tdx",
    "roots": "SHA-256 of the root certificates that a chain may end in",
    "not_before": "nothing is accepted under a clock that says less: for an image, its build time",
    # SEV-SNP
    "minimum_report_version": "2 to 5; from 3 on a report says which processor it is from",
    "signing_keys": "vcek: the chip's own key; vlek: one that a cloud provider loads",
    "csp_ids": "the cloud providers whose VLEKs are accepted",
    "vmpl": "the privilege level that asked for the report; 0 is the guest's highest",
    "minimum_abi": "of the firmware interface that the guest was launched under",
    "minimum_firmware": "major.minor.build of the committed firmware",
    "allow_provisional_firmware": "firmware that runs but is not committed: the host can go back",
    "allow_masked_chip_id": "reports that do not say which chip they are from",
    "minimum_guest_svn": "a version that the launcher of the guest gives it",
    "required_mitigations": "bits of the mitigation vectors, as one number: "
    f"{_mitigations()}; above 0 needs report version 5",
    "measurements": "launch digests, 48 bytes: list your image's ('sevfork measure')",
    "host_data": "32 bytes that the host chose at launch; sevfork's launch configuration",
    "family_ids": "of the ID block, 16 bytes",
    "image_ids": "of the ID block, 16 bytes",
    "id_keys": "digests of keys that signed the ID block, 48 bytes; zero for none",
    "author_keys": "digests of keys that signed those, 48 bytes; zero for none",
    "chips": "chip ids, 64 bytes",
    "denied_chips": "chip ids that are never accepted, such as those whose secrets were extracted",
    "crl": "AMD's revocation list: required, or optional ('guest build' takes --crl)",
    "snp.minimum_crl_number": "one number, or by product: { Milan = 7, Genoa = 10 }",
    "guest_policy.allowed": f"bits that may be set: {_bits(SNP_POLICY_BITS)}",
    "guest_policy.required": "bits that must be set",
    "platform.allowed": f"bits that may be set: {_bits(SNP_PLATFORM_BITS)}",
    "platform.required": "bits that must be set; alias-check-complete is the answer to BadRAM",
    "bootloader": "the least security version numbers; a product without its table is out",
    "microcode": "of processors that microcode_by_stepping does not name",
    "microcode_by_stepping": "by CPUID model and stepping, in hexadecimal",
    # TDX
    "minimum_quote_version": "4 or 5",
    "xfam": "processor features of the TD, 8 bytes",
    "mrseam": "the TDX module, 48 bytes",
    "mrsigner_seam": "who signed the module; zero is Intel",
    "seam_attributes": "of the module, 8 bytes; zero for one that is not debuggable",
    "minimum_tee_tcb_svn": "16 security version numbers, each at least this",
    "mrtd": "the firmware, 48 bytes: list this and RTMR 0 to 2 of your image",
    "rtmr0": "the firmware's settings",
    "rtmr1": "the kernel",
    "rtmr2": "initrd and command line",
    "rtmr3": "what the guest itself has extended since",
    "mrconfigid": "48 bytes that the host chose at launch; sevfork's launch configuration",
    "mrowner": "48 bytes, of who launched it",
    "mrownerconfig": "48 bytes, of who launched it",
    "mrservicetd": "a service TD that is bound to this one; quotes of version 4 do not say",
    "platforms": "PPIDs, 16 bytes",
    "denied_platforms": "PPIDs that are never accepted",
    "fmspcs": "kinds of platform, 6 bytes",
    "minimum_qe_svn": "of Intel's quoting enclave",
    "collateral": "required, or optional: without it nothing says how old the firmware is",
    "tcb_statuses": ", ".join(status.value for status in TcbStatus),
    "advisories": "INTEL-SA numbers that are put up with",
    "minimum_tcb_evaluation_number": "floor for collateral: Intel counts up at each new decision",
    "tdx.minimum_crl_number": "Intel's lists all say 1",
    "attributes.allowed": f"bits that may be set: {_bits(TDX_ATTRIBUTE_BITS)}",
    "attributes.required": "bits that must be set",
}
_FIELD = re.compile(r"([a-z0-9_]+) = ")
_TABLE = re.compile(r"\[(?:.*\.)?([A-Za-z_]+)\]")
_WRAP = textwrap.TextWrapper(
    96, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False
)


def commented(text: str) -> str:
    """The policy with what is said here above each field; its meaning stays the same."""
    return "\n".join([*(f"# {line}" for line in HEAD), "", *_lines(text)]) + "\n"


def _lines(text: str) -> Iterator[str]:
    table = ""
    for line in text.splitlines():
        if match := _TABLE.fullmatch(line):
            table = match[1]
        if match := _FIELD.match(line):
            yield from _wrapped(COMMENTS.get(f"{table}.{match[1]}", COMMENTS.get(match[1], "")))
        yield line


def _wrapped(comment: str) -> Iterator[str]:
    return iter(_WRAP.wrap(comment))
