"""Bits that have names: what each stands for, and which of them a policy allows and requires."""

from __future__ import annotations

from typing import Literal

import msgspec

from sevfork.attest.verdict import Findings

Rule = tuple[str, ...] | Literal["any"]

# SNP ABI, guest policy: bits above the ABI version; bit 17 must be one, which the parser checks.
SNP_POLICY_BITS = {
    16: "smt",
    18: "migration-agent",
    19: "debug",
    20: "single-socket",
    21: "cxl",
    22: "aes-256-xts",
    23: "rapl-disabled",
    24: "ciphertext-hiding",
    25: "page-swap-disabled",
}
SNP_PLATFORM_BITS = {
    0: "smt",
    1: "tsme",
    2: "ecc",
    3: "rapl-disabled",
    4: "ciphertext-hiding",
    5: "alias-check-complete",
    6: "iommu-write-safe",  # AMD-SB-3016
    7: "tio",
}
# TDX module ABI, TD attributes.
TDX_ATTRIBUTE_BITS = {
    0: "debug",
    4: "hgs-plus-profiling",
    5: "perf-profiling",
    6: "pmt-profiling",
    16: "icssd",
    27: "lass",
    28: "sept-ve-disable",
    29: "migratable",
    30: "pks",
    31: "key-locker",
    62: "tpa",
    63: "perfmon",
}
# Intel SDM, XCR0 and IA32_XSS, as far as a TDX module lets a guest have them.
XFAM_BITS = {
    0: "x87",
    1: "sse",
    2: "avx",
    5: "avx-512-opmask",
    6: "avx-512-zmm-high",
    7: "avx-512-zmm-16",
    8: "processor-trace",
    9: "pkru",
    11: "cet-user",
    12: "cet-supervisor",
    14: "user-interrupts",
    15: "lbr",
    17: "amx-configuration",
    18: "amx-data",
    19: "apx",
}


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A TOML table in which every key is required and no other is allowed."""


class Bits(Strict, frozen=True):
    """Which named bits may be set, and which must be; a bit without a name is never accepted."""

    allowed: Rule
    required: tuple[str, ...]

    def known(self, names: dict[int, str], where: str) -> None:
        """Raise ValueError on a bit name that does not exist."""
        listed = () if self.allowed == "any" else self.allowed
        unknown = sorted(set(listed + self.required) - set(names.values()))
        if unknown:
            raise ValueError(f"{where}: no bit is called '{unknown[0]}'")


def check_bits(
    findings: Findings, name: str, rule: Bits, value: int, names: dict[int, str]
) -> None:
    """No bit beyond the allowed ones, and each required one; a bit without a name needs ``any``."""
    present = bit_names(value, names)
    got = ", ".join(present) or "none"
    if rule.allowed == "any":
        findings.unchecked(f"{name}: the policy allows any bit (set: {got})")
    else:
        wanted = "at most: " + (", ".join(rule.allowed) or "none")
        findings.check(name, wanted, got, set(present) <= set(rule.allowed))
    if rule.required:
        wanted = "at least: " + ", ".join(rule.required)
        findings.check(f"{name}, required", wanted, got, set(rule.required) <= set(present))


def bit_names(value: int, names: dict[int, str]) -> list[str]:
    return [names.get(bit, f"bit {bit}") for bit in range(64) if value >> bit & 1]
