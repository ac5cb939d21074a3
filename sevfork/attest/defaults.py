"""Policies written out: what an image's measured policy and ``sevfork verify`` start from.

Every field is spelled out, because a policy that leaves one out is not valid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType

from msgspec import Struct, field
from msgspec.structs import asdict

from sevfork.attest.policy import Revocation
from sevfork.attest.snp.certificates import AMD_ROOTS
from sevfork.attest.snp.report import Product, Tcb
from sevfork.attest.tdx.chain import INTEL_ROOT_SHA256
from sevfork.attest.vendor_facts import TcbLevel
from sevfork.technology import Technology

NO_MINIMUM = {
    Product.MILAN: Tcb(0, 0, 0, 0),
    Product.GENOA: Tcb(0, 0, 0, 0),
    Product.TURIN: Tcb(0, 0, 0, 0, 0),
}
SIMULATED_MINIMUM = {Product.SIMULATED: Tcb(1, 0, 1, 1)}
# Those that make a guest no weaker, and multithreading, which almost every host has on.
_HARMLESS_POLICY_BITS = (
    "smt",
    "single-socket",
    "aes-256-xts",
    "rapl-disabled",
    "ciphertext-hiding",
    "page-swap-disabled",
)
HARDWARE_ROOTS = {
    Technology.SEV_SNP: tuple(AMD_ROOTS.values()),
    Technology.TDX: (INTEL_ROOT_SHA256,),
}
# Intel signed the TDX module: MRSIGNERSEAM is zero for its own.
_INTEL_MODULE = "00" * 48


class Floors(Struct, frozen=True):
    """Floors in time, against a host that keeps what was true once: lists, collateral, firmware.

    ``crl``: whether AMD's list has to be there and current. ``crl_numbers``: by product, what no
    list may be older than. ``alias_check``: the firmware looked for aliased memory (BadRAM,
    AMD-SB-3015). ``tcb``: which of the minimum TCBs known (``vendor_facts``).
    """

    crl: Revocation = "optional"
    crl_numbers: Mapping[Product, int] = field(default_factory=dict)
    intel_crl_number: int = 0
    tcb_evaluation_number: int = 0
    alias_check: bool = False
    tcb: TcbLevel = "required"


NO_FLOORS = Floors()
# TCB evaluation 18 is of 2025, and what Intel hands out in 2026; all of its lists say number 1.
HARDWARE_FLOORS = Floors(intel_crl_number=1, tcb_evaluation_number=18, alias_check=True)

SNP_SECTION = """
[{section}.snp]
minimum_report_version = 2
signing_keys = {signing_keys}
csp_ids = "any"
vmpl = [0]
minimum_abi = "0.0"
minimum_firmware = "0.0.0"
allow_provisional_firmware = false
allow_masked_chip_id = false
minimum_guest_svn = 0
required_mitigations = 0
measurements = "any"
host_data = "any"
family_ids = "any"
image_ids = "any"
id_keys = "any"
author_keys = "any"
chips = "any"
denied_chips = []
crl = "{crl}"
minimum_crl_number = {crl_number}

[{section}.snp.guest_policy]
allowed = {policy_bits}
required = []

[{section}.snp.platform]
allowed = "any"
required = {platform_bits}
"""

TDX_SECTION = """
[{section}.tdx]
minimum_quote_version = 4
xfam = "any"
mrseam = "any"
mrsigner_seam = ["{intel_module}"]
seam_attributes = ["0000000000000000"]
minimum_tee_tcb_svn = "00000000000000000000000000000000"
mrtd = "any"
rtmr0 = "any"
rtmr1 = "any"
rtmr2 = "any"
rtmr3 = {rtmr3}
mrconfigid = "any"
mrowner = "any"
mrownerconfig = "any"
mrservicetd = "any"
platforms = "any"
denied_platforms = []
fmspcs = "any"
minimum_qe_svn = 0
collateral = "{collateral}"
tcb_statuses = ["UpToDate", "SWHardeningNeeded"]
advisories = "any"
minimum_tcb_evaluation_number = {tcb_evaluation_number}
minimum_crl_number = {crl_number}

[{section}.tdx.attributes]
allowed = ["sept-ve-disable", "lass", "pks", "key-locker"]
required = {attributes}
"""


def policy_toml(
    technologies: Sequence[Technology],
    roots: Sequence[str],
    not_before: datetime,
    *,
    minimum_tcb: Mapping[Product, Tcb] = NO_MINIMUM,
    minimum_microcode: Mapping[Product, Mapping[str, int]] = MappingProxyType({}),
    signing_keys: Sequence[str] = ("vcek",),
    collateral: str = "required",
    floors: Floors = NO_FLOORS,
    section: str = "",
    for_peers: bool = False,
) -> str:
    """An attestation policy, as a file of its own or as table ``section`` of another one.

    ``for_peers``: for guests of one image among themselves, of which more is known.
    """
    text = [
        *([f"[{section}]"] if section else []),
        "schema = 1",
        f"technologies = {toml_list(technology.value for technology in technologies)}",
        f"roots = {toml_list(roots)}",
        f"not_before = {not_before.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
    ]
    if {Technology.SIMULATED, Technology.SEV_SNP} & set(technologies):
        text.append(_snp_section(section, signing_keys, floors))
        text.append(f"[{section}.snp.minimum_tcb]")
        text += [
            _minimum(section, product, tcb, minimum_microcode.get(product, {}))
            for product, tcb in minimum_tcb.items()
        ]
    if Technology.TDX in technologies:
        text.append(_tdx_section(section, collateral, for_peers, floors))
    joined = "\n".join(text)
    return joined if section else joined.replace("[.", "[")


def toml_list(values: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"


def _snp_section(section: str, signing_keys: Sequence[str], floors: Floors) -> str:
    return SNP_SECTION.format(
        section=section,
        signing_keys=toml_list(signing_keys),
        policy_bits=toml_list(_HARMLESS_POLICY_BITS),
        platform_bits=toml_list(["alias-check-complete"] if floors.alias_check else []),
        crl=floors.crl,
        crl_number=_crl_numbers(floors.crl_numbers),
    )


def _crl_numbers(numbers: Mapping[Product, int]) -> str:
    each = ", ".join(f"{product.value} = {number}" for product, number in numbers.items())
    return f"{{ {each} }}" if each else "0"


def _tdx_section(section: str, collateral: str, for_peers: bool, floors: Floors) -> str:
    """Our guests never extend RTMR3; SEPT_VE_DISABLE: no #VE when the host takes a page away."""
    return TDX_SECTION.format(
        section=section,
        intel_module=_INTEL_MODULE,
        collateral=collateral,
        rtmr3=toml_list(["00" * 48]) if for_peers else '"any"',
        attributes=toml_list(["sept-ve-disable"] if for_peers else []),
        tcb_evaluation_number=floors.tcb_evaluation_number,
        crl_number=floors.intel_crl_number,
    )


def _minimum(
    section: str, product: Product, tcb: Tcb, microcode_by_stepping: Mapping[str, int]
) -> str:
    numbers = [f"{name} = {value}" for name, value in asdict(tcb).items() if value is not None]
    if microcode_by_stepping:
        steppings = [f'"{name}" = {value}' for name, value in microcode_by_stepping.items()]
        numbers.append(f"microcode_by_stepping = {{ {', '.join(steppings)} }}")
    return "\n".join([f"[{section}.snp.minimum_tcb.{product.value}]", *numbers, ""])
