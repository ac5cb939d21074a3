"""``ssh-keygen`` and ``ssh-agent`` sign as we do, and verify what we sign."""

from __future__ import annotations

import base64
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sevfork.handshake.owner_signature import TOKEN_NAMESPACE, check_owner_signature
from sevfork.image.files import write_private
from sevfork.owner.key_file import PrivateKey
from sevfork.owner.public_key import openssh_line
from sevfork.owner.signer import open_key
from sevfork.process import CommandFailed, run
from sevfork.wire.lp import lp

pytestmark = [
    pytest.mark.skipif(not shutil.which(program), reason=f"{program} is not installed")
    for program in ("ssh-keygen", "ssh-agent", "ssh-add")
]
TIMEOUT_S = 20
PASSPHRASE = "correct horse"  # noqa: S105  # of a test
MESSAGE = b"what an owner signs"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEVFORK_OWNER_PASSPHRASE", PASSPHRASE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "message").write_bytes(MESSAGE)
    return tmp_path


def ssh(program: str, *words: str) -> str:
    return run([f"ssh-{program}", *words], timeout_s=TIMEOUT_S).stdout


def test_a_key_of_ssh_keygen_signs_what_ssh_keygen_signs(folder: Path) -> None:
    ssh("keygen", "-q", "-t", "ed25519", "-N", PASSPHRASE, "-f", "owner")
    signer = open_key(folder / "owner")
    ssh("keygen", "-p", "-P", PASSPHRASE, "-N", "", "-f", "owner")
    ssh("keygen", "-Y", "sign", "-n", TOKEN_NAMESPACE, "-f", "owner", "message")
    theirs = (folder / "message.sig").read_text().split("-----")[2]
    signature = base64.b64decode(theirs)[-64:]
    assert signer.sign(TOKEN_NAMESPACE, MESSAGE) == signature
    check_owner_signature(signer.public, TOKEN_NAMESPACE, MESSAGE, signature)


def test_ssh_keygen_verifies_what_we_sign_for_this_use_only(folder: Path) -> None:
    key = PrivateKey.generate()
    (folder / "owners").write_text(f"me {openssh_line(key.public)}\n")
    blob = lp(b"ssh-ed25519", key.public)
    signature = lp(b"ssh-ed25519", key.sign(TOKEN_NAMESPACE, MESSAGE))
    parts = lp(blob, TOKEN_NAMESPACE.encode(), b"", b"sha512", signature)
    armoured = base64.b64encode(b"SSHSIG\0\0\0\x01" + parts).decode()
    (folder / "sig").write_text(
        f"-----BEGIN SSH SIGNATURE-----\n{armoured}\n-----END SSH SIGNATURE-----\n"
    )
    check = ["ssh-keygen", "-Y", "verify", "-f", "owners", "-I", "me", "-s", "sig", "-n"]
    verified = run([*check, TOKEN_NAMESPACE], timeout_s=TIMEOUT_S, stdin=MESSAGE).stdout
    assert "Good" in verified
    with pytest.raises(CommandFailed):
        run([*check, "another"], timeout_s=TIMEOUT_S, stdin=MESSAGE)


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # A socket's path has 108 bytes at most.
    with tempfile.TemporaryDirectory(prefix="sevfork-agent-") as place:
        monkeypatch.setenv("SSH_AUTH_SOCK", f"{place}/agent")
        started = run(["ssh-agent", "-a", f"{place}/agent"], timeout_s=TIMEOUT_S).stdout
        monkeypatch.setenv("SSH_AGENT_PID", started.split("SSH_AGENT_PID=")[1].split(";")[0])
        yield
        ssh("agent", "-k")


def test_a_key_that_sevfork_made_signs_from_within_an_agent(
    folder: Path, agent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = PrivateKey.generate()
    write_private(folder / "owner.pem", key.encrypted(PASSPHRASE.encode()))
    ask = folder / "ask"
    ask.write_text(f"#!/bin/sh\necho '{PASSPHRASE}'\n")
    ask.chmod(0o700)
    for name, value in (("SSH_ASKPASS", str(ask)), ("SSH_ASKPASS_REQUIRE", "force")):
        monkeypatch.setenv(name, value)
    ssh("add", "-q", "owner.pem")
    (folder / "owner.pub").write_text(openssh_line(key.public))
    signer = open_key(folder / "owner.pub")
    assert signer.sign(TOKEN_NAMESPACE, MESSAGE) == key.sign(TOKEN_NAMESPACE, MESSAGE)


def test_a_key_that_the_agent_does_not_have_is_said_to_be_that(folder: Path, agent: None) -> None:
    (folder / "owner.pub").write_text(openssh_line(PrivateKey.generate().public))
    with pytest.raises(Exception, match="another key"):
        open_key(folder / "owner.pub").sign(TOKEN_NAMESPACE, MESSAGE)
