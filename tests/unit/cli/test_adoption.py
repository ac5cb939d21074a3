"""``sevfork owner adopt``, through a host that is a relay, and by files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sevfork.cli import main as command
from sevfork.cli.options import App
from sevfork.host import connection_choice
from sevfork.owner.public_key import openssh_line
from sevfork.technology import Technology
from sevfork.verifier.policies import verifiers_policy
from tests.support import simulators
from tests.support.fake_guests import FakeHouse
from tests.support.image_factory import write_image

# In the clear, since deciphering one takes a second.
KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
LINE = openssh_line(PUBLIC)


def sevfork(*arguments: str) -> int:
    return command.run(App(), list(arguments))


@pytest.fixture(autouse=True)
def folder(house: FakeHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a root that names the owner, its image, and the owner's policy and key."""
    monkeypatch.setattr(command, "handle_signals", lambda _app: None)
    monkeypatch.setattr(connection_choice, "connect", lambda _uri, _note: house)
    root = simulators.processor().root_fingerprint
    (tmp_path / "policy").write_text(verifiers_policy([Technology.SIMULATED], [root]))
    for name, key in (("key", KEY), ("stranger", Ed25519PrivateKey.generate())):
        plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / name).write_bytes(plain)
    write_image(tmp_path / "image")
    monkeypatch.chdir(tmp_path)
    assert sevfork("up", "web", "--image", "image", "--owner", LINE) == 0
    return tmp_path


CHECKS = ("--policy", "policy", "--image", "image", "--allow-simulated")
OWNERS = (*CHECKS, "--key", "key")


def test_a_root_is_adopted_through_a_host_and_can_then_be_forked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert sevfork("fork", "web") == 23
    assert "sevfork owner adopt web --policy" in capsys.readouterr().err
    assert sevfork("owner", "adopt", "web", *OWNERS, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["vm"], told["owner_key"]) == ("web", PUBLIC.hex())
    assert sevfork("fork", "web") == 0
    assert sevfork("lineage", "web-fork", "--owner", LINE, "--allow-simulated") == 0
    assert sevfork("owner", "adopt", "web", *OWNERS) == 0, "the same word again is fine"
    assert sevfork("owner", "adopt", "web-fork", *OWNERS) == 20


def test_a_root_is_adopted_by_files(
    house: FakeHouse, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevfork("owner", "nonce", "-o", "nonce") == 0
    assert sevfork("owner", "request", "web", "--nonce", "nonce", "-o", "request") == 0
    assert "sevfork owner adopt --request request --nonce NONCE" in capsys.readouterr().err
    with monkeypatch.context() as patched:
        patched.delattr(connection_choice, "connect")
        words = ("owner", "adopt", "--request", "request", "-o", "reply", *OWNERS)
        assert sevfork(*words, "--nonce", "nonce") == 0
    assert sevfork("fork", "web") == 23
    assert sevfork("owner", "install", "web", "--reply", "reply") == 0
    assert sevfork("fork", "web") == 0


def test_a_request_of_unknown_age_has_to_be_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevfork("owner", "request", "web", "-o", "request") == 0
    words = ("owner", "adopt", "--request", "request", "-o", "reply", *OWNERS)
    assert sevfork(*words) == 21
    assert "how old" in capsys.readouterr().err
    assert sevfork(*words, "--nonce", "00" * 32) == 20
    assert "another nonce" in capsys.readouterr().err
    assert not (folder / "reply").exists()
    assert sevfork(*words, "--any-age") == 0


def test_a_reply_for_another_root_is_refused_by_the_vm() -> None:
    assert sevfork("up", "other", "--image", "image", "--owner", LINE) == 0
    assert sevfork("owner", "request", "other", "-o", "request") == 0
    words = ("owner", "adopt", "--request", "request", "-o", "reply", "--any-age", *OWNERS)
    assert sevfork(*words) == 0
    assert sevfork("owner", "install", "web", "--reply", "reply") == 22
    assert sevfork("fork", "web") == 23


def test_a_stranger_adopts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert sevfork("owner", "adopt", "web", *CHECKS, "--key", "stranger") == 20
    assert "another owner" in capsys.readouterr().err


def test_a_policy_that_takes_any_image_adopts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in OWNERS if word not in ("--image", "image")]
    assert sevfork("owner", "adopt", "web", *words) == 21
    assert "any image" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [(), ("--request", "policy"), ("web", "-o", "reply"), ("web", "--any-age")]
)
def test_wrong_usage_exits_with_2(words: tuple[str, ...]) -> None:
    assert sevfork("owner", "adopt", *words, *OWNERS) == 2
