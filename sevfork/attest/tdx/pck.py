"""What a PCK certificate says of its platform: Intel's SGX extension, OID 1.2.840.113741.1.13.1.

The extension is a DER SEQUENCE of SEQUENCE { OID, value }; the TCB (.2) is such a sequence itself.
Source: Intel SGX PCK Certificate and CRL Profile Specification, section 1.3.5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from sevfork.errors import AttestationFailed

OID_SGX = "1.2.840.113741.1.13.1"
_ARC = bytes.fromhex("2a864886f84d010d01")  # the same, as the contents of a DER OID
_PPID, _TCB, _PCEID, _FMSPC = bytes([1]), bytes([2]), bytes([3]), bytes([4])
_SVNS = [bytes([2, component]) for component in range(1, 17)]
_PCE_SVN = bytes([2, 17])
_SEQUENCE, _INTEGER, _OCTET_STRING, _OID = 0x30, 0x02, 0x04, 0x06


class Platform(Struct, frozen=True):
    """PPID (16 bytes: which platform), FMSPC (6 bytes: what kind), PCE id (2 bytes) and its TCB."""

    ppid: bytes
    fmspc: bytes
    pce_id: bytes
    svns: tuple[int, ...]  # 16 components
    pce_svn: int

    @property
    def svns_text(self) -> str:
        return f"{'.'.join(map(str, self.svns))}, PCE {self.pce_svn}"

    @classmethod
    def decode(cls, extensions: Mapping[str, bytes]) -> Platform:
        """From a certificate's extensions; AttestationFailed if Intel's is absent or malformed."""
        if OID_SGX not in extensions:
            raise AttestationFailed("PCK certificate: it has no SGX extension")
        tag, content = _one(extensions[OID_SGX])
        if tag != _SEQUENCE:
            raise _malformed("it is not a sequence")
        fields = dict(_entries(content))
        tcb = dict(_entries(_value(fields, _TCB, _SEQUENCE)))
        svns = tuple(_integer(tcb, oid, limit=0xFF) for oid in _SVNS)
        return cls(
            ppid=_octets(fields, _PPID, 16),
            fmspc=_octets(fields, _FMSPC, 6),
            pce_id=_octets(fields, _PCEID, 2),
            svns=svns,
            pce_svn=_integer(tcb, _PCE_SVN, limit=0xFFFF),
        )


def _malformed(why: str) -> AttestationFailed:
    return AttestationFailed(f"PCK certificate: Intel's extension is malformed: {why}")


_Value = tuple[int, bytes]  # a DER tag and the contents


def _values(data: bytes) -> Iterator[_Value]:
    """Split DER into its values; only definite lengths of up to two bytes occur here."""
    while data:
        if len(data) < 2 or data[1] == 0x80 or data[1] > 0x82:
            raise _malformed("a length is not DER")
        head = 2 + max(data[1] - 0x80, 0)
        size = data[1] if head == 2 else int.from_bytes(data[2:head], "big")
        if len(data) < head + size:
            raise _malformed("a value is cut short")
        yield data[0], data[head : head + size]
        data = data[head + size :]


def _one(data: bytes) -> _Value:
    values = list(_values(data))
    if len(values) != 1:
        raise _malformed(f"{len(values)} values where one belongs")
    return values[0]


def _entries(sequence: bytes) -> Iterator[tuple[bytes, _Value]]:
    """The (OID below Intel's arc, value) pairs of a sequence; each OID may occur once."""
    seen: set[bytes] = set()
    for tag, content in _values(sequence):
        pair = list(_values(content))
        if tag != _SEQUENCE or len(pair) != 2 or pair[0][0] != _OID:
            raise _malformed("an entry is not an OID and a value")
        oid = pair[0][1]
        if not oid.startswith(_ARC) or oid in seen:
            raise _malformed("an OID is foreign or occurs twice")
        seen.add(oid)
        yield oid[len(_ARC) :], pair[1]


def _value(fields: Mapping[bytes, _Value], oid: bytes, wanted_tag: int) -> bytes:
    tag, content = fields.get(oid, (0, b""))
    if tag != wanted_tag:
        raise _malformed(f".{'.'.join(map(str, oid))} is missing or of the wrong type")
    return content


def _octets(fields: Mapping[bytes, _Value], oid: bytes, size: int) -> bytes:
    octets = _value(fields, oid, _OCTET_STRING)
    if len(octets) != size:
        raise _malformed(f".{oid[0]} has {len(octets)} bytes, not {size}")
    return octets


def _integer(fields: Mapping[bytes, _Value], oid: bytes, limit: int) -> int:
    number = int.from_bytes(_value(fields, oid, _INTEGER), "big", signed=True)
    if not 0 <= number <= limit:
        raise _malformed(f".{'.'.join(map(str, oid))} is {number}, outside 0 to {limit}")
    return number
