"""``sevfork owner init`` and ``public``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sevfork.cli import main as command
from sevfork.cli.options import App
from sevfork.owner import key_file, passphrase
from sevfork.owner.public_key import read_public_key


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "handle_signals", lambda _app: None)
    monkeypatch.setattr(key_file, "_BCRYPT_ROUNDS", 1)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv(passphrase.VARIABLE, "secret")


def sevfork(*words: str) -> int:
    return command.run(App(), ["owner", *words])


def test_a_key_is_made_once_and_its_public_half_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevfork("init") == 0
    printed = capsys.readouterr().out
    content = (tmp_path / "sevfork/owner.pem").read_bytes()
    assert len(read_public_key(printed)) == 32
    assert sevfork("public") == 0
    assert capsys.readouterr().out == printed
    assert sevfork("init") == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "sevfork/owner.pem").read_bytes() == content


def test_the_public_half_of_a_public_key_is_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nonsuch")
    assert sevfork("init", "-o", str(tmp_path / "key"), "--json") == 0
    made = json.loads(capsys.readouterr().out)
    (tmp_path / "owner.pub").write_text(made["openssh"])
    assert sevfork("public", "--key", str(tmp_path / "owner.pub"), "--json") == 0
    assert json.loads(capsys.readouterr().out) == made


def test_a_passphrase_from_a_file_is_used_and_a_wrong_one_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(passphrase.VARIABLE)
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("one\n")
    wrong.write_text("another\n")
    assert sevfork("init", "--passphrase-file", str(right)) == 0
    assert sevfork("public", "--passphrase-file", str(right)) == 0
    capsys.readouterr()
    assert sevfork("public", "--passphrase-file", str(wrong)) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    assert "is the passphrase right?" in told.err
