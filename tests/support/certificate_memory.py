"""For tests that change thousands of reports beside the same certificates."""

from __future__ import annotations

from functools import cache

import pytest

from sevfork.attest.x509 import Certificate, Chain, Scheme


def remember_certificates(patched: pytest.MonkeyPatch) -> None:
    """Read certificates of the same bytes once, and hold them against their issuer once.

    What differs in a bit is another key of the memory, and is verified like anything else.
    """
    issued_by = Certificate.issued_by
    known: dict[tuple[bytes, bytes, Scheme], bool] = {}

    def remembered(certificate: Certificate, issuer: Certificate, scheme: Scheme) -> bool:
        key = (certificate.der, issuer.der, scheme)
        if key not in known:
            known[key] = issued_by(certificate, issuer, scheme)
        return known[key]

    patched.setattr(Certificate, "issued_by", remembered)
    for kind in (Certificate, Chain):
        patched.setattr(kind, "decode", cache(kind.decode))
