"""Another reader of audit records, written from docs/audit.md alone, without sevfork."""

from __future__ import annotations

import hashlib
import struct
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

CHAINS = {1: "place", 2: "capture", 3: "refusal", 4: "grant", 5: "activation"}
HEAD = struct.Struct(">4s32s32sQ")
SPAN = struct.Struct(">Q48sQ48s")
ENTRY = struct.Struct(">BBBBQQQ")
HEAD_SIZE = HEAD.size + 5 * SPAN.size + 64


class Tampered(Exception):
    """The record is not the one that the VM with this key has written for this nonce."""


@dataclass(frozen=True)
class Read:
    """What the record says: of each chain how many entries there were, and those that are left."""

    instance_key: bytes
    counts: dict[str, int]
    entries: list[dict[str, Any]]


def read(head: bytes, entries: bytes, *, nonce: bytes, instance_key: bytes) -> Read:
    spans = read_head(head, nonce, instance_key)
    by_chain: dict[int, list[tuple[bytes, dict[str, Any]]]] = defaultdict(list)
    for encoded in split(entries):
        entry = read_entry(encoded)
        by_chain[entry["chain"]].append((encoded, entry))
    for chain, (before, before_hash, count, last_hash) in spans.items():
        hashed = before_hash
        first = sha384(b"sevfork/1 audit chain", instance_key, bytes([chain]))
        if before == 0 and before_hash != first:
            raise Tampered("a chain does not begin with this key")
        if len(by_chain[chain]) > 128:
            raise Tampered("more entries than are kept")
        number = 0
        for position, (encoded, entry) in enumerate(by_chain[chain], before + 1):
            if entry["position"] != position or entry["number"] <= number:
                raise Tampered("gap or reordering")
            number = entry["number"]
            hashed = sha384(b"sevfork/1 audit entry", hashed, encoded)
        if before + len(by_chain[chain]) != count:
            raise Tampered("the newest entries of a chain are missing")
        if hashed != last_hash:
            raise Tampered("rewritten")
    told = sorted((e for chain in by_chain.values() for _, e in chain), key=lambda e: e["number"])
    numbers = [entry["number"] for entry in told]
    total = sum(count for _, _, count, _ in spans.values())
    if len(set(numbers)) < len(numbers) or any(number > total for number in numbers):
        raise Tampered("numbers")
    return Read(instance_key, {CHAINS[chain]: span[2] for chain, span in spans.items()}, told)


def read_head(head: bytes, nonce: bytes, instance_key: bytes) -> dict[int, Any]:
    if len(head) != HEAD_SIZE:
        raise Tampered("length of the head")
    first, key, signed_nonce, _time = HEAD.unpack_from(head)
    if first != b"\x01\x14\x05\x00" or key != instance_key:
        raise Tampered("no head, or another VM's")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(
            head[-64:], framed(b"sevfork/1 audit head", head[:-64])
        )
    except (InvalidSignature, ValueError) as exc:
        raise Tampered("signature") from exc
    if signed_nonce != nonce:
        raise Tampered("old: signed for another nonce")
    return {chain: SPAN.unpack_from(head, HEAD.size + (chain - 1) * SPAN.size) for chain in CHAINS}


def split(entries: bytes) -> list[bytes]:
    found, position = [], 0
    while position < len(entries):
        if position + 4 > len(entries):
            raise Tampered("cut short")
        (size,) = struct.unpack_from(">I", entries, position)
        position += 4 + size
        if position > len(entries) or not ENTRY.size <= size <= 512:
            raise Tampered("length of an entry")
        found.append(entries[position - size : position])
    return found


def read_entry(encoded: bytes) -> dict[str, Any]:
    version, kind, chain, zero, number, position, wall_ns = ENTRY.unpack_from(encoded)
    if (version, kind, zero) != (1, 19, 0) or chain not in CHAINS:
        raise Tampered("no entry")
    if max(number, position) >= 2**53:
        raise Tampered("number")
    entry = {"chain": chain, "number": number, "position": position, "wall_ns": wall_ns}
    return entry | read_body(chain, encoded[ENTRY.size :])


def read_body(chain: int, body: bytes) -> dict[str, Any]:
    if chain == 3:
        return read_refusal(body)
    layouts = {
        1: (">BQ16sI48s", ("owned", "generation", "fork_id", "index", "lineage_digest")),
        2: (">16s48sQ", ("fork_id", "manifest_digest", "state_bytes")),
        4: (">B16sI32s48s", ("warm", "fork_id", "index", "instance_key", "manifest_digest")),
        5: (">16sI32s48s", ("fork_id", "index", "instance_key", "manifest_digest")),
    }
    layout, names = layouts[chain]
    if len(body) != struct.calcsize(layout):
        raise Tampered("length of a body")
    return dict(zip(names, struct.unpack(layout, body), strict=True))


def read_refusal(body: bytes) -> dict[str, Any]:
    if len(body) < 2 or body[1] > 32 or not 0 <= len(body) - 2 - body[1] <= 384:
        raise Tampered("length of a refusal")
    request, reason = body[2 : 2 + body[1]], body[2 + body[1] :]
    try:
        return {"exit_code": body[0], "request": request.decode(), "reason": reason.decode()}
    except UnicodeDecodeError as exc:
        raise Tampered("no text") from exc


def framed(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def sha384(*parts: bytes) -> bytes:
    return hashlib.sha384(framed(*parts)).digest()
