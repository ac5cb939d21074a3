"""The launch configuration byte by byte: the host chooses it, so nothing in it may be loose."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevfork.errors import NotAuthentic
from sevfork.handshake.launch import (
    LAUNCH_CONFIG_SIZE,
    LaunchConfig,
    Role,
    launch_config_hash,
)
from sevfork.technology import Technology

OWNER, OFFER, NONE = b"o" * 48, b"f" * 48, bytes(48)


def encoded(
    *,
    magic: bytes = b"SFLC",
    version: int = 1,
    role: int = 1,
    has_owner: int = 0,
    reserved: int = 0,
    owner: bytes = NONE,
    offer: bytes = NONE,
) -> bytes:
    return magic + bytes([version, role, has_owner, reserved]) + owner + offer


@pytest.mark.parametrize(
    ("config", "data"),
    [
        (LaunchConfig(Role.ROOT), encoded()),
        (LaunchConfig(Role.ROOT, OWNER), encoded(has_owner=1, owner=OWNER)),
        (LaunchConfig(Role.CHILD, None, OFFER), encoded(role=2, offer=OFFER)),
        (
            LaunchConfig(Role.CHILD, OWNER, OFFER),
            encoded(role=2, has_owner=1, owner=OWNER, offer=OFFER),
        ),
    ],
)
def test_each_role_has_one_encoding(config: LaunchConfig, data: bytes) -> None:
    assert config.encode() == data
    assert LaunchConfig.decode(data) == config
    assert len(data) == LAUNCH_CONFIG_SIZE


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encoded(magic=b"SFLD"), id="magic"),
        pytest.param(encoded(version=2), id="version"),
        pytest.param(encoded(version=0), id="no version"),
        pytest.param(encoded(role=0), id="no role"),
        pytest.param(encoded(role=3), id="unknown role"),
        pytest.param(encoded(reserved=1), id="reserved byte"),
        pytest.param(encoded(reserved=0x80), id="reserved bit"),
        pytest.param(encoded(has_owner=2, owner=OWNER), id="owner flag that is no flag"),
        pytest.param(encoded(owner=OWNER), id="owner without its flag"),
        pytest.param(encoded(has_owner=1), id="flag without an owner"),
        pytest.param(encoded(offer=OFFER), id="root with an OFFER"),
        pytest.param(encoded(role=2), id="child without an OFFER"),
        pytest.param(encoded() + b"\0", id="one byte trails"),
        pytest.param(encoded()[:-1], id="one byte is missing"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_anything_else_is_rejected(data: bytes) -> None:
    with pytest.raises(NotAuthentic):
        LaunchConfig.decode(data)


@given(st.binary(min_size=100, max_size=100))
def test_no_two_encodings_mean_the_same(tail: bytes) -> None:
    """What decodes encodes to the very same bytes: the hash is over bytes, not over meaning."""
    data = b"SFLC" + tail
    try:
        config = LaunchConfig.decode(data)
    except NotAuthentic:
        return
    assert config.encode() == data


@pytest.mark.parametrize(
    ("role", "owner", "offer"),
    [
        (Role.ROOT, None, OFFER),
        (Role.CHILD, None, None),
        (Role.ROOT, OWNER[:-1], None),
        (Role.ROOT, NONE, None),
        (Role.CHILD, None, NONE),
        (Role.CHILD, None, OFFER + b"\0"),
    ],
)
def test_a_configuration_that_has_no_encoding_cannot_be_made(
    role: Role, owner: bytes | None, offer: bytes | None
) -> None:
    with pytest.raises(NotAuthentic):
        LaunchConfig(role, owner, offer)


def test_the_hash_is_labelled_and_as_long_as_the_hardwares_field() -> None:
    hashed = b"\0\0\0\x10sevfork/1 launch" + b"\0\0\0\x68" + encoded()
    assert launch_config_hash(Technology.SEV_SNP, encoded()) == hashlib.sha256(hashed).digest()
    assert launch_config_hash(Technology.SIMULATED, encoded()) == hashlib.sha256(hashed).digest()
    assert launch_config_hash(Technology.TDX, encoded()) == hashlib.sha384(hashed).digest()
