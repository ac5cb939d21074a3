"""Families of guests, as tests of the handshake ask for them."""

from __future__ import annotations

import pytest

from sevfork.handshake import Manifest
from sevfork.owner.key_file import PrivateKey
from tests.support.fake_family import MANIFEST, Family, Fork


@pytest.fixture
def family() -> Family:
    return Family()


@pytest.fixture
def owned() -> Family:
    return Family(PrivateKey.generate())


@pytest.fixture
def fork(family: Family) -> Fork:
    return family.fork()


@pytest.fixture
def manifest() -> Manifest:
    return MANIFEST
