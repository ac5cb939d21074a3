"""Two simulated processors that were made once, and two RSA keys: making one takes half a second.

They are tests' own and protect nothing: ``tests/vectors/simulators/`` and ``rsa-4096.pem``.
The files also hold what an earlier sevfork wrote, so that one that reads them no more is noticed.
"""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Literal

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sevfork.simulated.processor import SimulatedProcessor
from tests.support import REPOSITORY

VECTORS = REPOSITORY / "tests/vectors"
_END = b"-----END PRIVATE KEY-----\n"


@cache
def processor(name: Literal["one", "two"] = "one") -> SimulatedProcessor:
    made = SimulatedProcessor.load(VECTORS / "simulators" / name)
    assert made is not None
    return made


def install(directory: Path) -> SimulatedProcessor:
    """The first of them, as the one that is kept in ``directory``."""
    shutil.copytree(VECTORS / "simulators/one", directory)
    return processor()


_load_key = cache(load_pem_private_key)


def remember_key(patched: pytest.MonkeyPatch) -> None:
    """Check a processor's key once, not for each report that it signs."""
    patched.setattr("sevfork.simulated.processor.load_pem_private_key", _load_key)


@cache
def rsa_keys() -> list[rsa.RSAPrivateKey]:
    """Two keys of 4096 bits; they were checked when they were made."""
    blocks = (VECTORS / "rsa-4096.pem").read_bytes().split(_END)[:-1]
    return [_rsa_key(block + _END) for block in blocks]


def _rsa_key(pem: bytes) -> rsa.RSAPrivateKey:
    key = load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key
