"""AMD's roots and intermediates as published, so that a VCEK or VLEK alone is enough.

``amd_authorities.pem`` has ASK, ARK and ASVK of Milan, Genoa and Turin, from
https://kdsintf.amd.com/{vcek,vlek}/v1/{product}/cert_chain. Nothing is trusted for being here: what
a policy pins is a root's fingerprint.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from sevfork.attest.x509 import Certificate
from sevfork.verifier.pem import pem_blocks


@cache
def amd_authorities() -> tuple[Certificate, ...]:
    content = files("sevfork.verifier").joinpath("amd_authorities.pem").read_bytes()
    return tuple(Certificate.decode(block.content) for block in pem_blocks(content))
