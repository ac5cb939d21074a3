"""Fuzz one SNP parser: ``python scripts/fuzz/fuzz_snp.py PARSER [libFuzzer options]``.

Needs ``atheris``. Whatever the input is, a parser returns or raises our own error: anything else
ends the run with a crash file. A run of twenty minutes that starts from genuine certificates:
``... certificate -max_total_time=1200 -max_len=4096 CORPUS build/genuine-samples/virtee-sev``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import atheris

with atheris.instrument_imports(include=["sevfork"]):
    from sevfork.attest.evidence import Evidence
    from sevfork.attest.guest_policy import GuestPolicy
    from sevfork.attest.policy import Policy
    from sevfork.attest.snp.certificates import CertificateTable
    from sevfork.attest.snp.report import REPORT_SIZE, SnpReport
    from sevfork.attest.x509 import Certificate, RevocationList, Scheme
    from sevfork.errors import AttestationFailed, UsageError
    from sevfork.technology import Technology
    from sevfork.verifier.certificate_files import CertificateFile
    from sevfork.verifier.policies import default_policy
    from sevfork.verifier.pool import Pool
    from sevfork.verifier.recognise import recognise
    from sevfork.verifier.verify import verdict_on

AT = datetime(2025, 6, 1, tzinfo=UTC)
POLICY = default_policy()


def certificate(data: bytes) -> None:
    """Read it, and use it as an issuer of itself: what is parsed lazily has to be asked for."""
    decoded = Certificate.decode(data)
    decoded.issued_by(decoded, Scheme.AMD)


def revocation_list(data: bytes) -> None:
    RevocationList.decode(data)


def evidence(data: bytes) -> None:
    """A whole verdict: a report, and behind it a certificate table."""
    report, certificates = data[:REPORT_SIZE], data[REPORT_SIZE:]
    verdict_on(Evidence(Technology.SEV_SNP, report, certificates), POLICY, AT)


def file(data: bytes) -> None:
    """What ``sevfork verify`` does with a file; the second half is a certificate folder's."""
    half = len(data) // 2
    Pool.read([CertificateFile("file", data[half:])], AT).complete(recognise(data[:half]))


PARSERS: dict[str, Callable[[bytes], object]] = {
    "report": SnpReport.decode,
    "table": CertificateTable.decode,
    "certificate": certificate,
    "crl": revocation_list,
    "container": Evidence.decode,
    "evidence": evidence,
    "file": file,
    "policy": Policy.decode,
    "guest-policy": GuestPolicy.decode,
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in PARSERS:
        raise SystemExit(f"{__doc__}\nparsers: {', '.join(PARSERS)}")
    parse = PARSERS[sys.argv.pop(1)]

    def one_input(data: bytes) -> None:
        with suppress(AttestationFailed, UsageError):
            parse(data)

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
