"""The SNP ATTESTATION_REPORT: 1184 bytes, little-endian, versions 2 to 5.

Source: AMD 56860, SEV Secure Nested Paging Firmware ABI, "ATTESTATION_REPORT". The parser takes
bytes apart and refuses what the ABI does not allow; whether any of it is true is not decided
here.
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from sevfork.errors import AttestationFailed

REPORT_SIZE = 0x4A0
SIGNED_SIZE = 0x2A0
POLICY_MUST_BE_ONE = 1 << 17
_POLICY_RESERVED = ~((1 << 26) - 1)
_FLAGS_RESERVED = ~0x1F
_ECDSA_P384_SHA384 = 1
_SIGNATURE_INTEGER_SIZE = 72
_P384_SIZE = 48
CHIP_ID_SIZE = 64
TURIN_CHIP_ID_SIZE = 8


class Product(Enum):
    """A family of processors with one root key; the value is its name in certificates."""

    MILAN = "Milan"
    GENOA = "Genoa"
    TURIN = "Turin"
    SIMULATED = "Simulated"

    @property
    def chip_id_size(self) -> int:
        """How many bytes of CHIP_ID are the hardware id; the rest is zero."""
        return TURIN_CHIP_ID_SIZE if self is Product.TURIN else CHIP_ID_SIZE


class Cpuid(Struct, frozen=True):
    """Which processor a report of version 3 and up says it comes from."""

    family: int
    model: int
    stepping: int

    @property
    def product(self) -> Product:
        """Raise AttestationFailed for a processor that no root is known for.

        Family 0 does not exist in hardware: the simulator writes it, so that not even an unsigned
        field of a simulated report looks like a genuine one.
        """
        for family, models, product, _ in _PROCESSORS:
            if family == self.family and self.model in models:
                return product
        raise AttestationFailed(f"a processor that sevfork does not know: {self}")

    @property
    def model_and_stepping(self) -> str:
        """As a policy names it, in hexadecimal: ``a0/2``."""
        return f"{self.model:02x}/{self.stepping:x}"

    def __str__(self) -> str:
        numbers = f"family {self.family:02X}h, model {self.model:02X}h, stepping {self.stepping}"
        for family, models, _, name in _PROCESSORS:
            if family == self.family and self.model in models:
                return f"{name} ({numbers})"
        return numbers


# AMD's processor programming references: family, models, whose root, what the market calls it.
_PROCESSORS = (
    (0x19, range(0x00, 0x10), Product.MILAN, "Milan"),
    (0x19, range(0x10, 0x20), Product.GENOA, "Genoa"),
    (0x19, range(0xA0, 0xB0), Product.GENOA, "Bergamo or Siena"),
    (0x1A, range(0x00, 0x10), Product.TURIN, "Turin"),
    (0x1A, range(0x10, 0x20), Product.TURIN, "Turin dense"),
    (0x00, range(0x00, 0x01), Product.SIMULATED, "simulated"),
)


class SigningKey(Enum):
    """Which key signed (flags, bits 4:2)."""

    VCEK = 0
    VLEK = 1
    NONE = 7

    @property
    def label(self) -> str:
        return self.name.lower()


class Tcb(Struct, frozen=True):
    """Security version numbers. They compare one by one: as one integer they mean nothing."""

    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int | None = None

    @classmethod
    def decode(cls, data: bytes, product: Product) -> Tcb:
        """Eight bytes of a report, laid out as the product's generation does."""
        if product is Product.TURIN:
            fmc, bootloader, tee, snp, *reserved, microcode = data
        else:
            bootloader, tee, *reserved, snp, microcode = data
            fmc = None
        if any(reserved):
            raise AttestationFailed(f"SNP report: reserved bytes set in the TCB '{data.hex()}'")
        return cls(bootloader, tee, snp, microcode, fmc)

    def encode(self) -> bytes:
        if self.fmc is not None:
            return bytes([self.fmc, self.bootloader, self.tee, self.snp, 0, 0, 0, self.microcode])
        return bytes([self.bootloader, self.tee, 0, 0, 0, 0, self.snp, self.microcode])

    def covers(self, minimum: Tcb) -> bool:
        """True if every component is at least the minimum's, and both are of one layout."""
        mine, theirs = self._numbers(), minimum._numbers()
        return len(mine) == len(theirs) and all(a >= b for a, b in zip(mine, theirs, strict=True))

    def _numbers(self) -> tuple[int, ...]:
        fmc = () if self.fmc is None else (self.fmc,)
        return (*fmc, self.bootloader, self.tee, self.snp, self.microcode)

    def __str__(self) -> str:
        fmc = "" if self.fmc is None else f"fmc {self.fmc}, "
        rest = f"tee {self.tee}, snp {self.snp}, microcode {self.microcode}"
        return f"{fmc}bootloader {self.bootloader}, {rest}"


class FirmwareVersion(Struct, frozen=True):
    """The SNP firmware's version; compares as (major, minor, build)."""

    major: int
    minor: int
    build: int

    @property
    def numbers(self) -> tuple[int, int, int]:
        return (self.major, self.minor, self.build)

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.build}"


class SnpReport(Struct, frozen=True):
    """A well-formed report. TCB fields stay bytes until the product says how to read them."""

    raw: bytes
    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: bytes
    platform_info: int
    author_key_enabled: bool
    key_masked: bool
    signing_key: SigningKey
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    cpuid: Cpuid | None
    chip_id: bytes
    committed_tcb: bytes
    current_firmware: FirmwareVersion
    committed_firmware: FirmwareVersion
    launch_tcb: bytes
    launch_mitigations: int | None
    current_mitigations: int | None
    signature_r: int
    signature_s: int

    @property
    def signed_bytes(self) -> bytes:
        return self.raw[:SIGNED_SIZE]

    @property
    def policy_abi(self) -> tuple[int, int]:
        """The lowest firmware ABI (major, minor) that the guest's policy accepts."""
        return (self.policy >> 8) & 0xFF, self.policy & 0xFF

    @property
    def product(self) -> Product | None:
        """What the report says it comes from; None if a version 2 report leaves it open."""
        return None if self.cpuid is None else self.cpuid.product

    @property
    def looks_like_turin(self) -> bool | None:
        """For version 2, which has no CPUID: a short hardware id. None if the id is all zero."""
        return None if not any(self.chip_id) else not any(self.chip_id[TURIN_CHIP_ID_SIZE:])

    @classmethod
    def decode(cls, data: bytes) -> SnpReport:
        """Raise AttestationFailed unless data is one report that the ABI allows."""
        version = _version(data)
        _check_reserved(data, version)
        flags = _number(data, 0x48, 4)
        return cls(
            raw=data,
            version=version,
            guest_svn=_number(data, 0x04, 4),
            policy=_policy(data),
            family_id=data[0x10:0x20],
            image_id=data[0x20:0x30],
            vmpl=_number(data, 0x30, 4),
            current_tcb=data[0x38:0x40],
            platform_info=_number(data, 0x40, 8),
            author_key_enabled=bool(flags & 1),
            key_masked=bool(flags & 2),
            signing_key=_signing_key(flags),
            report_data=data[0x50:0x90],
            measurement=data[0x90:0xC0],
            host_data=data[0xC0:0xE0],
            id_key_digest=data[0xE0:0x110],
            author_key_digest=data[0x110:0x140],
            report_id=data[0x140:0x160],
            report_id_ma=data[0x160:0x180],
            reported_tcb=data[0x180:0x188],
            cpuid=None if version == 2 else Cpuid(*data[0x188:0x18B]),
            chip_id=data[0x1A0:0x1E0],
            committed_tcb=data[0x1E0:0x1E8],
            current_firmware=_firmware(data, 0x1E8),
            committed_firmware=_firmware(data, 0x1EC),
            launch_tcb=data[0x1F0:0x1F8],
            launch_mitigations=_number(data, 0x1F8, 8) if version == 5 else None,
            current_mitigations=_number(data, 0x200, 8) if version == 5 else None,
            signature_r=_signature_integer(data, 0x2A0),
            signature_s=_signature_integer(data, 0x2E8),
        )


def _number(data: bytes, offset: int, size: int) -> int:
    return int.from_bytes(data[offset : offset + size], "little")


def _version(data: bytes) -> int:
    if len(data) != REPORT_SIZE:
        raise AttestationFailed(f"SNP report: {len(data)} bytes, want {REPORT_SIZE}")
    version = _number(data, 0x00, 4)
    if version > 5:
        raise AttestationFailed(f"SNP report: version {version} is newer than sevfork knows (5)")
    if version < 2:
        raise AttestationFailed(f"SNP report: version {version}, want 2 to 5")
    return version


def _check_reserved(data: bytes, version: int) -> None:
    regions = [
        (0x4C, 0x50),
        (0x188 if version == 2 else 0x18B, 0x1A0),
        (0x1EB, 0x1EC),
        (0x1EF, 0x1F0),
        (0x208 if version == 5 else 0x1F8, SIGNED_SIZE),
        (0x330, REPORT_SIZE),
    ]
    for start, end in regions:
        if any(data[start:end]):
            raise AttestationFailed(f"SNP report: reserved bytes set in {start:#x} to {end:#x}")
    if _number(data, 0x34, 4) != _ECDSA_P384_SHA384:
        raise AttestationFailed("SNP report: the signature algorithm is not ECDSA P-384 (1)")


def _policy(data: bytes) -> int:
    policy = _number(data, 0x08, 8)
    if not policy & POLICY_MUST_BE_ONE or policy & _POLICY_RESERVED:
        raise AttestationFailed(f"SNP report: reserved bits wrong in the guest policy {policy:#x}")
    return policy


def _signing_key(flags: int) -> SigningKey:
    key = (flags >> 2) & 7
    if flags & _FLAGS_RESERVED or key not in [known.value for known in SigningKey]:
        raise AttestationFailed(f"SNP report: reserved bits or an unknown key in flags {flags:#x}")
    return SigningKey(key)


def _firmware(data: bytes, offset: int) -> FirmwareVersion:
    build, minor, major = data[offset : offset + 3]
    return FirmwareVersion(major, minor, build)


def _signature_integer(data: bytes, offset: int) -> int:
    """R or S: little-endian in 72 bytes, of which P-384 uses 48 and the rest is zero."""
    if any(data[offset + _P384_SIZE : offset + _SIGNATURE_INTEGER_SIZE]):
        raise AttestationFailed("SNP report: a number of the signature is longer than P-384's")
    return _number(data, offset, _P384_SIZE)
