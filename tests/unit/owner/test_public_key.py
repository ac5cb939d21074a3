"""An owner's public key, as people have it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sevfork.errors import UsageError
from sevfork.owner.public_key import openssh_line, read_public_key

KEY = Ed25519PrivateKey.generate().public_key()
RAW = KEY.public_bytes_raw()
PEM = KEY.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
OTHERS = ec.generate_private_key(ec.SECP256R1()).public_key()


@pytest.mark.parametrize(
    "text",
    [openssh_line(RAW), f"{openssh_line(RAW)} me@home\n", PEM, f"\n{PEM}\n"],
    ids=["OpenSSH", "OpenSSH with a comment", "PEM", "PEM with empty lines"],
)
def test_a_key_is_read_from_its_text_and_from_a_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "owner.pub"
    path.write_text(text)
    assert read_public_key(text) == read_public_key(str(path)) == RAW


@pytest.mark.parametrize(
    "text",
    [
        "ssh-ed25519 AAAA",
        openssh_line(RAW)[:-4],
        PEM[:60],
        OTHERS.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
        OTHERS.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        "/nonsuch/owner.pub",
        "\0",
    ],
    ids=["short", "cut OpenSSH", "cut PEM", "OpenSSH P-256", "PEM P-256", "no file", "no name"],
)
def test_what_is_no_ed25519_key_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        read_public_key(text)
