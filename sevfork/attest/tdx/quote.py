"""TDX quotes, versions 4 and 5, as bytes: where each field is, and nothing about whom to believe.

Layout (Intel TDX DCAP Quoting Library API, appendix A.3 and A.4; integers little-endian, ECDSA
values big-endian)::

    header 48 | v4: body 584 | v5: u16 body type, u32 size, body 584 (type 2) or 648 (type 3)
    u32 length of the signature data | signature data | anything
    signature data: r||s 64 | attestation key x||y 64 | u16 6 | u32 size | QE certification
    QE certification: QE report 384 | r||s 64 | u16 length, auth data | u16 5 | u32 size | PEM

What follows the signature data is not signed and not parsed: guests hand out quotes in buffers of a
fixed size, so genuine quotes come with padding (measured: 70 and 3,065 bytes). Inside the signature
data every length must be exact.
"""

from __future__ import annotations

import struct

from msgspec import Struct

from sevfork.errors import AttestationFailed

INTEL_VENDOR_ID = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
TEE_TYPE_TDX = 0x81
_TEE_TYPE_SGX = 0
ECDSA_P256, _ECDSA_P384 = 2, 3
HEADER_SIZE = 48
QE_REPORT_SIZE = 384
# A quote with Intel's chain has about 5,000 bytes; an evidence frame ends at 16 KiB anyway.
MAX_QUOTE_SIZE = 16384

_QE_REPORT_CERTIFICATION = 6
_PCK_CHAIN_CERTIFICATION = 5
_BODY_SIZES = {2: 584, 3: 648}
_HEADER = struct.Struct("<HHI4s16s20s")
_BODY_DESCRIPTOR = struct.Struct("<HI")
_CERTIFICATION = struct.Struct("<HI")
_LENGTH_16 = struct.Struct("<H")
_LENGTH_32 = struct.Struct("<I")
_BODY = struct.Struct("<16s48s48s8s8s8s48s48s48s48s48s48s48s48s64s")
_BODY_15 = struct.Struct("<16s48s")
_QE_REPORT = struct.Struct("<16s4s28s16s32s32s32s96sHH60s64s")


def _malformed(why: str) -> AttestationFailed:
    return AttestationFailed(f"tdx quote is malformed: {why}")


class _Reader:
    """Takes exact pieces off the front of bytes that have a name."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data, self._name, self.offset = data, name, 0

    def take(self, size: int) -> bytes:
        piece = self._data[self.offset : self.offset + size]
        if len(piece) != size:
            raise _malformed(f"{self._name} ends {size - len(piece)} bytes early")
        self.offset += size
        return piece

    def unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack(self.take(layout.size))

    def rest(self) -> bytes:
        return self.take(len(self._data) - self.offset)

    def end(self) -> None:
        if self.offset != len(self._data):
            raise _malformed(f"{len(self._data) - self.offset} bytes trail in {self._name}")


class TdReport(Struct, frozen=True):
    """The body: what the TDX module measured of one TD. Sizes in bytes as in Intel's TDREPORT.

    The last two are None in a body of type 2, which has no such fields.
    """

    tee_tcb_svn: bytes  # 16; at the TD's launch
    mrseam: bytes  # 48, like all registers below
    mrsignerseam: bytes
    seam_attributes: bytes  # 8
    td_attributes: bytes  # 8
    xfam: bytes  # 8
    mrtd: bytes
    mrconfigid: bytes
    mrowner: bytes
    mrownerconfig: bytes
    rtmr0: bytes
    rtmr1: bytes
    rtmr2: bytes
    rtmr3: bytes
    report_data: bytes  # 64
    tee_tcb_svn2: bytes | None = None  # 16; the platform's now
    mrservicetd: bytes | None = None

    @classmethod
    def decode(cls, body: bytes) -> TdReport:
        """Take a body of exactly 584 or 648 bytes."""
        base = _BODY.unpack(body[: _BODY.size])
        if len(body) == _BODY.size:
            return cls(*base)
        return cls(*base, *_BODY_15.unpack(body[_BODY.size :]))


class QeReport(Struct, frozen=True):
    """The quoting enclave's SGX report body (384 bytes), and ``raw``, which the PCK key signed."""

    raw: bytes
    miscselect: bytes  # 4
    attributes: bytes  # 16
    mrenclave: bytes  # 32
    mrsigner: bytes  # 32
    isv_prod_id: int
    isv_svn: int
    report_data: bytes  # 64

    @classmethod
    def decode(cls, raw: bytes) -> QeReport:
        _, misc, _, attributes, mrenclave, _, mrsigner, _, prod_id, svn, _, data = (
            _QE_REPORT.unpack(raw)
        )
        return cls(raw, misc, attributes, mrenclave, mrsigner, prod_id, svn, data)


class QuoteSignature(Struct, frozen=True):
    """The quote's signature data; keys and signatures are 64 bytes, x||y or r||s."""

    signature: bytes
    attestation_key: bytes
    qe_report: QeReport
    qe_report_signature: bytes
    qe_authentication_data: bytes
    pck_chain_pem: bytes

    @classmethod
    def decode(cls, data: bytes) -> QuoteSignature:
        reader = _Reader(data, "the signature data")
        signature, attestation_key = reader.take(64), reader.take(64)
        certification = _certification(reader, _QE_REPORT_CERTIFICATION)
        inner = _Reader(certification, "the QE certification data")
        qe_report = QeReport.decode(inner.take(QE_REPORT_SIZE))
        qe_signature = inner.take(64)
        authentication_data = inner.take(inner.unpack(_LENGTH_16)[0])
        chain = _certification(inner, _PCK_CHAIN_CERTIFICATION)
        return cls(signature, attestation_key, qe_report, qe_signature, authentication_data, chain)


def _certification(reader: _Reader, wanted: int) -> bytes:
    """The certification data of the wanted type, which must be the last thing in the reader."""
    kind, size = reader.unpack(_CERTIFICATION)
    if kind != wanted:
        raise _malformed(f"certification data has type {kind}, not {wanted}")
    data = reader.take(size)
    reader.end()
    return data


class Quote(Struct, frozen=True):
    """A parsed quote; ``signed`` is the exact bytes under the attestation key's signature."""

    version: int
    signed: bytes
    td_report: TdReport
    signature: QuoteSignature
    trailing_bytes: int

    @classmethod
    def decode(cls, data: bytes) -> Quote:
        """Raise AttestationFailed unless data starts with one well-formed TDX quote."""
        if len(data) > MAX_QUOTE_SIZE:
            raise _malformed(f"it has {len(data)} bytes, more than {MAX_QUOTE_SIZE}")
        reader = _Reader(data, "the quote")
        version = _header_version(reader)
        td_report = TdReport.decode(reader.take(_body_size(reader, version)))
        signed = data[: reader.offset]
        signature = QuoteSignature.decode(reader.take(reader.unpack(_LENGTH_32)[0]))
        return cls(version, signed, td_report, signature, len(reader.rest()))


def _header_version(reader: _Reader) -> int:
    version, key_type, tee_type, reserved, vendor, _ = _HEADER.unpack(reader.take(_HEADER.size))
    if vendor == INTEL_VENDOR_ID and (version == 3 or tee_type == _TEE_TYPE_SGX):
        raise AttestationFailed("this is a quote of an SGX enclave, not of a TDX guest")
    if version not in (4, 5):
        raise _malformed(f"version is {version}, not 4 or 5")
    if tee_type != TEE_TYPE_TDX:
        raise _malformed(f"TEE type is {tee_type:#x}, not {TEE_TYPE_TDX:#x}")
    if key_type == _ECDSA_P384:
        raise AttestationFailed("this quote's attestation key is on P-384: sevfork verifies P-256")
    if key_type != ECDSA_P256:
        raise _malformed(f"attestation key type is {key_type}, not {ECDSA_P256} (ECDSA P-256)")
    if any(reserved):
        raise _malformed("reserved bytes of the header are not zero")
    if vendor != INTEL_VENDOR_ID:
        raise _malformed(f"QE vendor is {vendor.hex()}, not Intel's {INTEL_VENDOR_ID.hex()}")
    return int(version)


def _body_size(reader: _Reader, version: int) -> int:
    if version == 4:
        return _BODY_SIZES[2]
    body_type, size = reader.unpack(_BODY_DESCRIPTOR)
    if _BODY_SIZES.get(body_type) != size:
        raise _malformed(f"body type {body_type} with {size} bytes is not a TD report")
    return size
