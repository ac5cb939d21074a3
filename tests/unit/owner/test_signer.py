"""An owner's key, however it is kept: in a file, or with an ssh-agent."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from sevfork.errors import HostCannot, NotAuthentic, TimedOut, UsageError
from sevfork.handshake.owner_signature import TOKEN_NAMESPACE, check_owner_signature
from sevfork.image.files import write_private
from sevfork.owner import key_file, passphrase
from sevfork.owner.key_file import PrivateKey
from sevfork.owner.passphrase import new_passphrase
from sevfork.owner.public_key import openssh_line
from sevfork.owner.signer import default_key, open_key
from sevfork.owner.ssh_agent import AgentKey
from sevfork.wire.lp import lp

SEED = bytes(range(32))
RAW = Ed25519PrivateKey.from_private_bytes(SEED)
KEY = PrivateKey(RAW)
PASSPHRASE = "correct horse"  # noqa: S105  # of a test
MESSAGE = b"a message"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(passphrase.VARIABLE, PASSPHRASE)
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    monkeypatch.setattr(key_file, "_BCRYPT_ROUNDS", 1)


def pem(key: Any, form: PrivateFormat, encryption: KeySerializationEncryption) -> bytes:
    encoded: bytes = key.private_bytes(Encoding.PEM, form, encryption)
    return encoded


FILES = {
    "OpenSSH": pem(RAW, PrivateFormat.OpenSSH, NoEncryption()),
    "PKCS #8": pem(RAW, PrivateFormat.PKCS8, NoEncryption()),
    "encrypted PKCS #8": pem(
        RAW, PrivateFormat.PKCS8, BestAvailableEncryption(PASSPHRASE.encode())
    ),
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES.keys())
def test_a_key_that_people_have_signs(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "owner"
    path.write_bytes(content)
    signer = open_key(path)
    assert signer.public == KEY.public
    assert signer.sign(TOKEN_NAMESPACE, MESSAGE) == KEY.sign(TOKEN_NAMESPACE, MESSAGE)


def test_a_key_that_was_made_is_encrypted_and_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "sevfork" / "owner.pem"
    write_private(path, KEY.encrypted(PASSPHRASE.encode()))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert SEED not in path.read_bytes()
    assert open_key(path).public == KEY.public
    with pytest.raises(UsageError, match="exists already"):
        write_private(path, b"another")
    assert open_key(path).public == KEY.public


def test_nothing_secret_is_in_a_repr() -> None:
    assert repr(KEY) == "PrivateKey()"


def test_the_default_key_is_among_the_users_settings() -> None:
    assert default_key({"HOME": "/home/me"}) == Path("/home/me/.config/sevfork/owner.pem")
    assert default_key({"XDG_CONFIG_HOME": "/x"}) == Path("/x/sevfork/owner.pem")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is no private key"),
        (b"\xff\xfe", "is no private key"),
        (FILES["OpenSSH"][:150], "is no private key"),
        (FILES["PKCS #8"][:60], "is no private key"),
        (
            pem(ec.generate_private_key(ec.SECP256R1()), PrivateFormat.PKCS8, NoEncryption()),
            "no Ed25519 key",
        ),
        (b"ssh-ed25519 AAAA", "no Ed25519 public key"),
        (b"sk-ssh-ed25519@openssh.com AAAA", "FIDO"),
    ],
    ids=["empty", "binary", "cut OpenSSH", "cut PEM", "P-256", "cut public", "FIDO"],
)
def test_what_is_no_owners_key_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "owner"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=reason):
        open_key(path)


def test_a_key_that_is_not_there_is_refused_with_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file") as caught:
        open_key(tmp_path / "nonsuch")
    assert "owner init" in (caught.value.hint or "")


def test_the_wrong_passphrase_is_said_to_be_that_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(passphrase.VARIABLE, "battery")
    for content in (FILES["encrypted PKCS #8"], KEY.encrypted(PASSPHRASE.encode())):
        path = tmp_path / "owner"
        path.write_bytes(content)
        with pytest.raises(UsageError, match="is the passphrase right") as caught:
            open_key(path)
        assert "battery" not in caught.value.message


def test_a_passphrase_comes_from_a_file_before_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_text("from a file\nnot this\n")
    assert new_passphrase(Path("k"), {passphrase.VARIABLE: "x"}, file) == b"from a file"
    assert new_passphrase(Path("k"), {passphrase.VARIABLE: "x"}, None) == b"x"


def test_an_empty_passphrase_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for environ, file in (({passphrase.VARIABLE: ""}, None), ({}, tmp_path / "empty")):
        with pytest.raises(UsageError, match="empty passphrase"):
            new_passphrase(Path("k"), environ, file)


def test_without_a_terminal_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passphrase, "_TERMINAL", Path("/nonsuch/tty"))
    with pytest.raises(UsageError, match="no terminal") as caught:
        new_passphrase(Path("k"), {}, None)
    assert "--passphrase-file" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("typed", "reason"), [(["a", "b"], "differ"), (["", ""], "empty"), ([], "no passphrase")]
)
def test_a_passphrase_that_was_not_typed_twice_makes_no_key(
    typed: list[str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_at_a_terminal(monkeypatch, typed)
    with pytest.raises(UsageError, match=reason):
        new_passphrase(Path("k"), {}, None)


def test_a_passphrase_that_was_typed_twice_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    type_at_a_terminal(monkeypatch, ["a", "a"])
    assert new_passphrase(Path("k"), {}, None) == b"a"


def type_at_a_terminal(monkeypatch: pytest.MonkeyPatch, typed: list[str]) -> None:
    answers = iter(typed)

    def getpass(_prompt: str) -> str:
        try:
            return next(answers)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(passphrase, "_TERMINAL", Path("/dev/null"))
    monkeypatch.setattr("getpass.getpass", getpass)


class Agent:
    """A connection to an agent with one key: it reads a request, and answers piece by piece."""

    def __init__(self, key: Ed25519PrivateKey = RAW, answer: bytes | None = None) -> None:
        self._key, self._answer = key, answer
        self._left = b""

    def __call__(self, family: int, kind: int) -> Agent:
        assert (family, kind) == (socket.AF_UNIX, socket.SOCK_STREAM)
        return self

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None: ...

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0

    def connect(self, path: str) -> None:
        assert path == "/run/agent"

    def sendall(self, data: bytes) -> None:
        blob = lp(b"ssh-ed25519", self._key.public_key().public_bytes_raw())
        start = b"\x0d" + lp(blob)
        assert data[4:].startswith(start)
        signed = data[4 + len(start) + 4 : -4]
        assert data == lp(start + lp(signed) + bytes(4))
        self._left = self._answer or lp(b"\x0e" + signature_blob(self._key.sign(signed)))

    def recv(self, size: int) -> bytes:
        part, self._left = self._left[: min(size, 50)], self._left[min(size, 50) :]
        return part


def signature_blob(signature: bytes, kind: bytes = b"ssh-ed25519") -> bytes:
    return lp(lp(kind, signature))


def agent_key(monkeypatch: pytest.MonkeyPatch, agent: Agent, tmp_path: Path) -> Any:
    monkeypatch.setattr(socket, "socket", agent)
    path = tmp_path / "owner.pub"
    path.write_text(openssh_line(KEY.public))
    return open_key(path)


def test_a_key_of_the_agents_signs_as_one_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    signer = agent_key(monkeypatch, Agent(), tmp_path)
    signature = signer.sign(TOKEN_NAMESPACE, MESSAGE)
    assert signature == KEY.sign(TOKEN_NAMESPACE, MESSAGE)
    check_owner_signature(signer.public, TOKEN_NAMESPACE, MESSAGE, signature)


@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        (lp(b"\x05"), HostCannot, "does not sign"),
        (lp(b""), HostCannot, "does not sign"),
        (b"\0\0", HostCannot, "closed the connection"),
        (b"\0\0\0\x09\x0e", HostCannot, "closed the connection"),
        (b"\xff\xff\xff\xff", HostCannot, "4294967295 bytes"),
        (lp(b"\x0e" + signature_blob(bytes(64))), NotAuthentic, "not valid"),
        (lp(b"\x0e" + signature_blob(bytes(63))), NotAuthentic, "none of an Ed25519"),
        (lp(b"\x0e" + signature_blob(bytes(64), b"ssh-rsa")), NotAuthentic, "none of an Ed25519"),
        (lp(b"\x0e" + signature_blob(bytes(64)) + b"x"), NotAuthentic, "none of an Ed25519"),
    ],
    ids=["failure", "nothing", "cut head", "cut", "huge", "false", "short", "kind", "trailing"],
)
def test_an_agent_that_answers_something_else_is_refused(
    answer: bytes,
    error: type[Exception],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    signer = agent_key(monkeypatch, Agent(answer=answer), tmp_path)
    with pytest.raises(error, match=reason):
        signer.sign(TOKEN_NAMESPACE, MESSAGE)


def test_an_agent_that_is_silent_or_gone_is_said_to_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    agent = Agent()
    signer = agent_key(monkeypatch, agent, tmp_path)
    for failure, error in (
        (TimeoutError(), TimedOut),
        (FileNotFoundError(2, "No such file"), HostCannot),
        (OSError("AF_UNIX path too long"), HostCannot),  # without a number, so without strerror
    ):

        def connect(_path: str, failure: OSError = failure) -> None:
            raise failure

        monkeypatch.setattr(agent, "connect", connect)
        with pytest.raises(error, match="agent") as caught:
            signer.sign(TOKEN_NAMESPACE, MESSAGE)
        assert "None" not in str(caught.value)


def test_an_agent_that_answers_byte_by_byte_is_not_waited_for_longer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    agent = Agent()

    def recv(_size: int) -> bytes:
        time.sleep(0.02)
        return b"\0"

    monkeypatch.setattr(agent, "recv", recv)
    signer = replace(agent_key(monkeypatch, agent, tmp_path), timeout_s=0.03)
    with pytest.raises(TimedOut, match="does not answer"):
        signer.sign(TOKEN_NAMESPACE, MESSAGE)


def test_a_public_key_without_an_agent_is_refused() -> None:
    with pytest.raises(HostCannot, match="no ssh-agent"):
        AgentKey.of(KEY.public, {})
