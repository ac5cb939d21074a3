"""Intel's TCB info and QE identity as documents, and the TCB level that a platform has by them.

Nothing here verifies a signature: ``collateral`` does, before it lets any text in here.

Source: Intel PCS API v4, "Get TDX TCB info" and "Get TDX QE identity", with their description of
how a TCB level is found. Unknown fields are ignored, since PCS reserves the right to add some.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import Enum
from typing import Annotated, TypeVar

import msgspec

from sevfork.attest.tdx.pck import Platform
from sevfork.attest.tdx.quote import QeReport, TdReport
from sevfork.attest.x509 import Validity
from sevfork.errors import AttestationFailed

_Document = TypeVar("_Document", bound=msgspec.Struct)


def decode_json(what: str, data: bytes, kind: type[_Document]) -> _Document:
    """Parse JSON from outside; every fault becomes an AttestationFailed that names ``what``."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise AttestationFailed(f"{what} is malformed{_fault(str(exc))}") from exc


def _fault(words: str) -> str:
    """What a reader can use of the decoder's words: a field's name, a place; never a value."""
    missing = re.search(r"missing required field `(\w+)`", words)
    place = re.search(r" at `(\$[\w.\[\]]*)`", words)
    what = f": '{missing[1]}' is missing" if missing else ""
    return what + (f" (at {place[1]})" if place else "")


def unhex(what: str, text: str, size: int | None = None) -> bytes:
    """Hex digits and nothing else (``bytes.fromhex`` alone would skip spaces)."""
    try:
        octets = bytes.fromhex(text)
    except ValueError as exc:
        raise AttestationFailed(f"{what} is not hex") from exc
    if len(text) != 2 * len(octets) or (size is not None and len(octets) != size):
        raise AttestationFailed(f"{what} has the wrong length")
    return octets


class TcbStatus(Enum):
    """What Intel says of a TCB level; ``needs`` is what the platform's owner should do."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    TD_RELAUNCH_ADVISED = "TDRelaunchAdvised"
    TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "TDRelaunchAdvisedConfigurationNeeded"
    REVOKED = "Revoked"

    @property
    def needs(self) -> frozenset[str]:
        return _NEEDS[self]


_NEEDS = {
    TcbStatus.UP_TO_DATE: frozenset[str](),
    TcbStatus.SW_HARDENING_NEEDED: frozenset({"hardening"}),
    TcbStatus.CONFIGURATION_NEEDED: frozenset({"configuration"}),
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: frozenset({"configuration", "hardening"}),
    TcbStatus.OUT_OF_DATE: frozenset({"update"}),
    TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED: frozenset({"update", "configuration"}),
    TcbStatus.TD_RELAUNCH_ADVISED: frozenset({"relaunch"}),
    TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED: frozenset({"relaunch", "configuration"}),
    TcbStatus.REVOKED: frozenset({"replacement"}),
}

_OUTWEIGHED = {
    "replacement": frozenset({"update", "relaunch", "configuration", "hardening"}),
    "update": frozenset({"relaunch", "hardening"}),
    "relaunch": frozenset({"hardening"}),
}


def converge(statuses: Iterable[TcbStatus]) -> TcbStatus:
    """One status for platform, module and quoting enclave together, as Intel's QVL converges them.

    What any of them needs, the whole needs; beside an update hardening is no topic, and beside a
    revocation nothing is.
    """
    needs = frozenset[str]().union(*(status.needs for status in statuses))
    for need, outweighed in _OUTWEIGHED.items():
        needs -= outweighed if need in needs else frozenset()
    return _by_needs(needs)


def since_launch(launch: TcbStatus, now: TcbStatus) -> TcbStatus:
    """The status of a TD that was launched under one TCB and runs on under another.

    What counts is the launch: an update under a running TD does not mend it, it has to be launched
    again. Agrees with dcap-qvl 0.7 on all pairs of statuses (tests).
    """
    if TcbStatus.REVOKED in (launch, now):
        return TcbStatus.REVOKED
    if "update" in launch.needs and "update" not in now.needs:
        return _by_needs({"relaunch"} | (launch.needs | now.needs) & {"configuration"})
    return launch


def _by_needs(needs: frozenset[str] | set[str]) -> TcbStatus:
    return next(status for status, own in _NEEDS.items() if own == needs)


_Byte = Annotated[int, msgspec.Meta(ge=0, le=0xFF)]
_Short = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
_Time = Annotated[datetime, msgspec.Meta(tz=True)]


class _Component(msgspec.Struct, frozen=True):
    svn: _Byte


_Components = Annotated[tuple[_Component, ...], msgspec.Meta(min_length=16, max_length=16)]


class _PlatformTcb(msgspec.Struct, frozen=True):
    sgxtcbcomponents: _Components
    tdxtcbcomponents: _Components
    pcesvn: _Short


class _EnclaveTcb(msgspec.Struct, frozen=True):
    isvsvn: _Short


class _Level(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    tcb_date: _Time
    tcb_status: TcbStatus
    advisories: tuple[str, ...] = msgspec.field(default=(), name="advisoryIDs")

    def __str__(self) -> str:
        return f"{self.tcb_status.value}, level of {self.tcb_date:%Y-%m-%d}"


class PlatformLevel(_Level, frozen=True, kw_only=True, rename="camel"):
    """One of the platform's TCB levels."""

    tcb: _PlatformTcb

    def is_met(self, platform: Platform, tee_tcb_svn: bytes) -> bool:
        """Whether each SVN of certificate and quote is at least the level's."""
        # With a module of version 1 and up, bytes 0 and 1 say which module it is, and it has levels
        # of its own (PCS API, "Get TDX TCB info", step 3c).
        first = 2 if tee_tcb_svn[1] else 0
        wanted = [component.svn for component in self.tcb.tdxtcbcomponents[first:]]
        return (
            _all_at_least(platform.svns, [part.svn for part in self.tcb.sgxtcbcomponents])
            and platform.pce_svn >= self.tcb.pcesvn
            and _all_at_least(tee_tcb_svn[first:], wanted)
        )


class EnclaveLevel(_Level, frozen=True, kw_only=True, rename="camel"):
    """A TCB level of something with one SVN: the quoting enclave or a TDX module."""

    tcb: _EnclaveTcb


TcbLevel = PlatformLevel | EnclaveLevel


def _all_at_least(got: Sequence[int], wanted: Sequence[int]) -> bool:
    return all(have >= want for have, want in zip(got, wanted, strict=True))


class _Module(msgspec.Struct, frozen=True, rename="camel"):
    mrsigner: str
    attributes: str
    attributes_mask: str

    def verify(self, report: TdReport) -> None:
        """Check who signed the TDX module, and its attributes (none outside the mask either)."""
        if report.mrsignerseam != unhex("TCB info: mrsigner", self.mrsigner, 48):
            raise AttestationFailed(f"mrsignerseam is {report.mrsignerseam.hex()}, not Intel's")
        wanted = unhex("TCB info: attributes", self.attributes, 8)
        mask = unhex("TCB info: attributesMask", self.attributes_mask, 8)
        if not _masked_equal(report.seam_attributes, wanted, mask, strict=True):
            got = report.seam_attributes.hex()
            raise AttestationFailed(f"seam attributes are {got}, not {wanted.hex()}")


class _ModuleIdentity(_Module, frozen=True, rename="camel"):
    id: str
    tcb_levels: tuple[EnclaveLevel, ...]


def _masked_equal(got: bytes, wanted: bytes, mask: bytes, *, strict: bool = False) -> bool:
    """Whether got equals wanted under a mask; ``strict``: and has no bit outside it."""
    number, want, keep = (int.from_bytes(octets, "big") for octets in (got, wanted, mask))
    return number & keep == want & keep and not (strict and number & ~keep)


class Dated(msgspec.Struct, frozen=True, rename="camel"):
    """What every document of Intel's has."""

    id: str
    version: int
    issue_date: _Time
    next_update: _Time
    tcb_evaluation_data_number: int

    @property
    def validity(self) -> Validity:
        """From when it was issued until the next one is due."""
        return Validity(self.issue_date, self.next_update)

    @property
    def kind(self) -> str:
        return f"'{self.id}' version {self.version}"

    def _verify_kind(self, what: str, kind: str, version: int) -> None:
        if (self.id, self.version) != (kind, version):
            raise AttestationFailed(f"{what} is {self.kind}, not '{kind}' version {version}")


class TcbInfo(Dated, frozen=True, rename="camel"):
    """TCB levels of one platform family (FMSPC), and of the TDX modules it may run."""

    fmspc: str
    pce_id: str
    tcb_type: int
    tdx_module: _Module
    tcb_levels: tuple[PlatformLevel, ...]
    tdx_module_identities: tuple[_ModuleIdentity, ...] = ()

    def verify_kind(self) -> None:
        """Check that this is TCB info for TDX, of the version and type that this module reads."""
        self._verify_kind("TCB info", "TDX", 3)
        if self.tcb_type:
            raise AttestationFailed(f"TCB info has type {self.tcb_type}, which is unknown")

    @property
    def platform_kind(self) -> tuple[str, str]:
        """FMSPC and PCE id of the platforms that it speaks of, in lower-case hex."""
        return self.fmspc.lower(), self.pce_id.lower()

    def platform_level(self, platform: Platform, tee_tcb_svn: bytes) -> PlatformLevel:
        """The first level (Intel lists the newest first) that the platform meets."""
        for level in self.tcb_levels:
            if level.is_met(platform, tee_tcb_svn):
                return level
        raise AttestationFailed("the platform is below every TCB level that Intel lists")

    def module_levels(self, report: TdReport, tee_tcb_svn: bytes) -> tuple[EnclaveLevel, ...]:
        """Check the TDX module's signer; its one level, or none for a module of version 0."""
        isv_svn, version = tee_tcb_svn[:2]
        if not version:
            self.tdx_module.verify(report)
            return ()
        identity = self._module_identity(f"TDX_{version:02X}")
        identity.verify(report)
        return (_enclave_level(f"TDX module {identity.id}", identity.tcb_levels, isv_svn),)

    def _module_identity(self, name: str) -> _ModuleIdentity:
        for identity in self.tdx_module_identities:
            if identity.id.upper() == name:
                return identity
        raise AttestationFailed(f"TCB info has no TDX module '{name}'")


class QeIdentity(Dated, frozen=True, rename="camel"):
    """What the quoting enclave must be."""

    miscselect: str
    miscselect_mask: str
    attributes: str
    attributes_mask: str
    mrsigner: str
    isvprodid: _Short
    tcb_levels: tuple[EnclaveLevel, ...]

    def verify_kind(self) -> None:
        """Check that this is the identity of TDX's quoting enclave, not of SGX's."""
        self._verify_kind("QE identity", "TD_QE", 2)

    def level(self, report: QeReport) -> EnclaveLevel:
        """Check the enclave's report against the identity, and return its TCB level."""
        self._verify_signer(report)
        self._verify_masked("miscselect", report.miscselect, self.miscselect, self.miscselect_mask)
        self._verify_masked("attributes", report.attributes, self.attributes, self.attributes_mask)
        return _enclave_level("quoting enclave", self.tcb_levels, report.isv_svn)

    def _verify_signer(self, report: QeReport) -> None:
        wanted = unhex("QE identity: mrsigner", self.mrsigner, 32)
        if report.mrsigner != wanted:
            got = report.mrsigner.hex()
            raise AttestationFailed(f"quoting enclave: mrsigner is {got}, not {wanted.hex()}")
        if report.isv_prod_id != self.isvprodid:
            got = str(report.isv_prod_id)
            raise AttestationFailed(f"quoting enclave: product id is {got}, not {self.isvprodid}")

    def _verify_masked(self, name: str, got: bytes, wanted: str, mask: str) -> None:
        want = unhex(f"QE identity: {name}", wanted, len(got))
        keep = unhex(f"QE identity: mask of {name}", mask, len(got))
        if not _masked_equal(got, want, keep):
            raise AttestationFailed(f"quoting enclave: {name} are {got.hex()}, not {wanted}")


def _enclave_level(what: str, levels: Iterable[EnclaveLevel], isv_svn: int) -> EnclaveLevel:
    for level in levels:
        if isv_svn >= level.tcb.isvsvn:
            return level
    raise AttestationFailed(f"{what}: SVN {isv_svn} is below every TCB level that Intel lists")
