"""Families of guests, as tests of the handshake ask for them."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sevfork.handshake import Manifest
from tests.support.fake_family import MANIFEST, Family, Fork


@pytest.fixture
def family() -> Family:
    return Family()


@pytest.fixture
def owned() -> Family:
    return Family(Ed25519PrivateKey.generate())


@pytest.fixture
def fork(family: Family) -> Fork:
    return family.fork()


@pytest.fixture
def manifest() -> Manifest:
    return MANIFEST
