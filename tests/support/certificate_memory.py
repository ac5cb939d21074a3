"""For tests that see the same certificates again and again: beside a report, at every message."""

from __future__ import annotations

from functools import lru_cache

import pytest

from sevfork.attest.x509 import Certificate, Chain, Scheme

_issued_by = Certificate.issued_by
_DECODE = {kind: lru_cache(kind.decode) for kind in (Certificate, Chain)}
_known: dict[tuple[bytes, bytes, Scheme], bool] = {}


def remember_certificates(patched: pytest.MonkeyPatch) -> None:
    """Read certificates of the same bytes once, and hold them against their issuer once.

    What differs in a bit is another key of the memory, and is verified like anything else.
    """
    patched.setattr(Certificate, "issued_by", _remembered)
    for kind, decode in _DECODE.items():
        patched.setattr(kind, "decode", decode)


def _remembered(certificate: Certificate, issuer: Certificate, scheme: Scheme) -> bool:
    key = (certificate.der, issuer.der, scheme)
    if key not in _known:
        _known[key] = _issued_by(certificate, issuer, scheme)
    return _known[key]
