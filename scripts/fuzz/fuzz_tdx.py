"""Fuzz one TDX parser: ``python scripts/fuzz/fuzz_tdx.py PARSER [libFuzzer options]``.

Needs ``atheris``. Whatever the input is, a parser returns or raises AttestationFailed: anything
else ends the run with a crash file. A run of twenty minutes that starts from genuine quotes:
``... quote -max_total_time=1200 -max_len=8192 CORPUS build/genuine-samples/trustee/tdx``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime

import atheris
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

with atheris.instrument_imports(include=["sevfork"]):
    from sevfork.attest.defaults import policy_toml
    from sevfork.attest.evidence import Evidence
    from sevfork.attest.policy import Policy
    from sevfork.attest.tdx.chain import INTEL_ROOT_SHA256, PCK_CHAIN
    from sevfork.attest.tdx.collateral import Collateral, SignedJson
    from sevfork.attest.tdx.pck import OID_SGX, Platform
    from sevfork.attest.tdx.quote import Quote
    from sevfork.attest.verify import judge
    from sevfork.attest.x509 import Certificate, Chain, RevocationList, Scheme
    from sevfork.errors import AttestationFailed
    from sevfork.technology import Technology

AT = datetime(2026, 2, 3, tzinfo=UTC)
POLICY = Policy.decode(
    policy_toml([Technology.TDX], [INTEL_ROOT_SHA256], AT, collateral="optional").encode()
)


def issuer() -> Certificate:
    """Some CA on P-256 for revocation lists to be checked with; nothing it signs gets in here."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Intel SGX PCK Platform CA")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, AT, AT)
    return Certificate.decode(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER))


ISSUER = issuer()


def chain(data: bytes) -> None:
    decoded = Chain.decode("chain", data)
    decoded.verify(PCK_CHAIN, Scheme.INTEL)
    Platform.decode(decoded.leaf.extensions)


def revocation_list(data: bytes) -> None:
    RevocationList.decode(data).verify(ISSUER, Scheme.INTEL)


def documents(data: bytes) -> None:
    signed = SignedJson("document", data[1:], bytes(64), b"")
    parse = signed.as_tcb_info if data[:1] == b"0" else signed.as_qe_identity
    parse()


def evidence(data: bytes) -> None:
    """A whole verdict; the first two bytes say where the quote ends and collateral begins."""
    size = 2 + int.from_bytes(data[:2], "big")
    judge(Evidence(Technology.TDX, data[2:size], data[size:]), POLICY, None, AT)


PARSERS: dict[str, Callable[[bytes], object]] = {
    "quote": Quote.decode,
    "extension": lambda data: Platform.decode({OID_SGX: data}),
    "chain": chain,
    "collateral": Collateral.decode,
    "documents": documents,
    "crl": revocation_list,
    "evidence": evidence,
}


def fuzz(parser: Callable[[bytes], object]) -> Callable[[bytes], None]:
    def one(data: bytes) -> None:
        try:
            parser(data)
        except AttestationFailed:
            return

    return one


def main() -> None:
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in PARSERS:
        sys.exit(f"usage: fuzz_tdx.py {'|'.join(PARSERS)} [libFuzzer options] [corpus]")
    atheris.Setup(sys.argv, fuzz(PARSERS[name]))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
