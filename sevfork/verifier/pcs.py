"""Answers of Intel's provisioning certification service (PCS API v4), as people save them.

A body alone, or a whole HTTP answer (``curl -i``), whose header has the chain of the signer. The
text that is signed is kept byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

import msgspec

from sevfork.attest.tdx.collateral import SignedJson
from sevfork.attest.tdx.tcb import decode_json, unhex
from sevfork.errors import AttestationFailed

# In lower case; PCS v4 and PCCS, and what older ones said.
CHAIN_HEADERS = (
    "tcb-info-issuer-chain",
    "sgx-tcb-info-issuer-chain",
    "sgx-enclave-identity-issuer-chain",
    "sgx-pck-crl-issuer-chain",
    "sgx-pck-certificate-issuer-chain",
)


class _Answer(msgspec.Struct, frozen=True, rename="camel"):
    signature: str
    tcb_info: msgspec.Raw = msgspec.Raw()
    enclave_identity: msgspec.Raw = msgspec.Raw()


def document_from_answer(body: bytes, issuer_chain: bytes) -> SignedJson:
    """TCB info or QE identity; ``issuer_chain`` is PEM, empty if it is not known."""
    answer = decode_json("an answer of Intel's service", body, _Answer)
    signature = unhex("the signature of Intel's answer", answer.signature, 64)
    for what, text in (("TCB info", answer.tcb_info), ("QE identity", answer.enclave_identity)):
        if bytes(text):
            return SignedJson(what, bytes(text), signature, issuer_chain)
    raise AttestationFailed("an answer of Intel's service without TCB info and QE identity")


def split_http(answer: bytes) -> tuple[bytes, bytes]:
    """The body of an HTTP answer, and the PEM chain in its headers (empty if there is none)."""
    end = b"\r\n\r\n" if b"\r\n\r\n" in answer else b"\n\n"
    head, _, body = answer.partition(end)
    return body, _issuer_chain(_headers(head))


def _headers(head: bytes) -> Mapping[bytes, bytes]:
    pairs = (line.partition(b":") for line in head.split(b"\n")[1:])
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _issuer_chain(headers: Mapping[bytes, bytes]) -> bytes:
    names = (name.encode() for name in CHAIN_HEADERS)
    chains = (headers[name] for name in names if name in headers)
    return unquote_to_bytes(next(chains, b""))
