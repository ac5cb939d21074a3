"""The attestation policy: what a verifier accepts, as TOML.

It is strict in three ways. Every field has to be there: a field that the policy does not speak of
is an error, not a permission. A list names all that is accepted, so an empty one accepts nothing.
Accepting whatever comes is said in words, ``"any"``, and shows up in the verdict as not checked.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Literal, TypeVar

import msgspec

from sevfork.attest.bits import (
    SNP_PLATFORM_BITS,
    SNP_POLICY_BITS,
    TDX_ATTRIBUTE_BITS,
    Bits,
    Rule,
    Strict,
)
from sevfork.attest.tdx.tcb import TcbStatus
from sevfork.errors import UsageError
from sevfork.technology import Technology

Unsigned = Annotated[int, msgspec.Meta(ge=0)]
Svn = Annotated[int, msgspec.Meta(ge=0, le=255)]
Revocation = Literal["required", "optional"]
ProductName = Literal["Milan", "Genoa", "Turin", "Simulated"]
_T = TypeVar("_T")


class MinimumTcb(Strict, frozen=True):
    """The lowest security version numbers accepted of a product; ``fmc`` exists on Turin only.

    ``microcode_by_stepping`` takes the place of ``microcode`` for the processors that it names, by
    model and stepping in hexadecimal (``"a0/2"``). All others, and reports of version 2, which do
    not say, have to meet ``microcode``.
    """

    bootloader: Svn
    tee: Svn
    snp: Svn
    microcode: Svn
    fmc: Svn | None = None
    microcode_by_stepping: dict[str, Svn] = {}

    def __post_init__(self) -> None:
        for name in self.microcode_by_stepping:
            if not re.fullmatch(r"[0-9a-f]{2}/[0-9a-f]", name):
                raise ValueError(f"microcode_by_stepping: '{name}' is no model/stepping as 'a0/2'")


class SnpPolicy(Strict, frozen=True):
    """What is accepted of an SNP report, genuine or simulated.

    Digests, ids and keys are lower-case hexadecimal. A product without an entry in
    ``minimum_tcb`` is not accepted.
    """

    minimum_report_version: Annotated[int, msgspec.Meta(ge=2, le=5)]
    signing_keys: tuple[Literal["vcek", "vlek"], ...]
    csp_ids: Rule
    vmpl: tuple[Annotated[int, msgspec.Meta(ge=0, le=3)], ...]
    guest_policy: Bits
    minimum_abi: str
    platform: Bits
    minimum_firmware: str
    allow_provisional_firmware: bool
    allow_masked_chip_id: bool
    minimum_guest_svn: Unsigned
    required_mitigations: Unsigned
    minimum_tcb: dict[ProductName, MinimumTcb]
    measurements: Rule
    host_data: Rule
    family_ids: Rule
    image_ids: Rule
    id_keys: Rule
    author_keys: Rule
    chips: Rule
    denied_chips: tuple[str, ...]
    crl: Revocation
    minimum_crl_number: Unsigned | dict[ProductName, Unsigned]

    def __post_init__(self) -> None:
        _hex_lists(self, measurements=48, host_data=32, family_ids=16, image_ids=16)
        _hex_lists(self, id_keys=48, author_keys=48, chips=64, denied_chips=64)
        self.guest_policy.known(SNP_POLICY_BITS, "guest_policy")
        self.platform.known(SNP_PLATFORM_BITS, "platform")
        version("minimum_abi", self.minimum_abi, 2)
        version("minimum_firmware", self.minimum_firmware, 3)
        for product, minimum in self.minimum_tcb.items():
            if (minimum.fmc is not None) != (product == "Turin"):
                raise ValueError(f"minimum_tcb: 'fmc' belongs to Turin, and not to {product}")


class TdxPolicy(Strict, frozen=True):
    """What is accepted of a TDX quote; digests are lower-case hexadecimal."""

    minimum_quote_version: Annotated[int, msgspec.Meta(ge=4, le=5)]
    attributes: Bits
    xfam: Rule
    mrseam: Rule
    mrsigner_seam: Rule
    seam_attributes: Rule
    minimum_tee_tcb_svn: str
    mrtd: Rule
    rtmr0: Rule
    rtmr1: Rule
    rtmr2: Rule
    rtmr3: Rule
    mrconfigid: Rule
    mrowner: Rule
    mrownerconfig: Rule
    mrservicetd: Rule
    platforms: Rule
    denied_platforms: tuple[str, ...]
    fmspcs: Rule
    minimum_qe_svn: Unsigned
    collateral: Revocation
    tcb_statuses: tuple[str, ...]
    advisories: Rule
    minimum_tcb_evaluation_number: Unsigned
    minimum_crl_number: Unsigned

    def __post_init__(self) -> None:
        _hex_lists(self, xfam=8, mrseam=48, mrsigner_seam=48, seam_attributes=8, mrtd=48, rtmr0=48)
        _hex_lists(self, rtmr1=48, rtmr2=48, rtmr3=48, mrconfigid=48, mrowner=48, mrownerconfig=48)
        _hex_lists(self, mrservicetd=48, platforms=16, denied_platforms=16, fmspcs=6)
        _hex("minimum_tee_tcb_svn", self.minimum_tee_tcb_svn, 16)
        self.attributes.known(TDX_ATTRIBUTE_BITS, "attributes")
        unknown = sorted(set(self.tcb_statuses) - {status.value for status in TcbStatus})
        if unknown:
            raise ValueError(f"tcb_statuses: Intel has no status '{unknown[0]}'")


class Policy(Strict, frozen=True):
    """An attestation policy; ``snp`` and ``tdx`` are there exactly if a technology needs them.

    ``roots`` are SHA-256 over the DER of the self-signed root certificates that a chain may end in.
    ``not_before`` is the floor in time: no evidence is accepted under a clock that says less.
    """

    schema: Literal[1]
    technologies: tuple[Literal["simulated", "sev-snp", "tdx"], ...]
    roots: tuple[str, ...]
    not_before: Annotated[datetime, msgspec.Meta(tz=True)]
    snp: SnpPolicy | None = None
    tdx: TdxPolicy | None = None

    def __post_init__(self) -> None:
        _hex_lists(self, roots=32)
        needs_snp = bool({"simulated", "sev-snp"} & set(self.technologies))
        for section, needed in (("snp", needs_snp), ("tdx", "tdx" in self.technologies)):
            if (getattr(self, section) is not None) != needed:
                verb = "needs" if needed else "has no use for"
                raise ValueError(f"'technologies' {verb} the section '{section}'")

    @classmethod
    def decode(cls, data: bytes) -> Policy:
        """Raise UsageError, saying where, unless data is a complete policy in TOML."""
        return decode_toml(data, cls, "the attestation policy")

    def accepts(self, technology: Technology) -> bool:
        return technology.value in self.technologies


def decode_toml(data: bytes, kind: type[_T], what: str) -> _T:
    """Strictly decoded TOML; every fault becomes a UsageError that names ``what``."""
    try:
        return msgspec.toml.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise UsageError(
            f"{what} is not valid: {exc}",
            hint="each field has to be there; docs/attestation.md lists them",
        ) from exc


def version(where: str, text: str, numbers: int) -> tuple[int, ...]:
    """``"1.55"`` as (1, 55); raise ValueError unless there are that many numbers of at most 255."""
    parts = text.split(".")
    if len(parts) != numbers or not all(re.fullmatch(r"[0-9]{1,3}", part) for part in parts):
        raise ValueError(f"{where}: '{text}' is not {numbers} numbers with dots between them")
    values = tuple(int(part) for part in parts)
    if max(values) > 255:
        raise ValueError(f"{where}: '{text}' has a number above 255")
    return values


def _hex(where: str, text: str, size_bytes: int) -> None:
    if not re.fullmatch(f"[0-9a-f]{{{2 * size_bytes}}}", text):
        raise ValueError(f"{where}: '{text}' is not {size_bytes} bytes of lower-case hexadecimal")


def _hex_lists(section: msgspec.Struct, **size_bytes: int) -> None:
    for name, size in size_bytes.items():
        rule = getattr(section, name)
        for text in () if rule == "any" else rule:
            _hex(name, text, size)
