"""``sevfork owner authorize``, and the forks that its tokens allow, with real agents."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from msgspec.structs import replace

from sevfork.cli import main as command
from sevfork.cli.options import App
from sevfork.handshake import OwnerToken, Signer
from sevfork.host import connection_choice
from sevfork.image.image import Image
from sevfork.lifecycle.warm.pool import Pool, PoolRequest
from sevfork.owner import key_file, passphrase
from sevfork.owner.documents import SavedLineage
from sevfork.owner.key_file import PrivateKey
from tests.support.command_lines import unknown_options
from tests.support.fake_guests import FakeHouse
from tests.support.image_factory import write_image
from tests.support.owners import OWNER, OWNER_KEY, OWNER_LINE, adopted_root, owned_root


@pytest.fixture(autouse=True)
def _owned(house: FakeHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adopted root whose policy asks for a token, and its owner's key."""
    monkeypatch.setattr(command, "handle_signals", lambda _app: None)
    monkeypatch.setattr(connection_choice, "connect", lambda _uri, _note: house)
    monkeypatch.setattr(key_file, "_BCRYPT_ROUNDS", 1)
    monkeypatch.setenv(passphrase.VARIABLE, "secret")
    monkeypatch.chdir(tmp_path)
    write_key("owner", OWNER)
    policy = replace(house.measured.policy, fork="owner")
    house.measured = replace(house.measured, policy=policy)
    adopted_root(house, Image.load(write_image(tmp_path / "image")))


def write_key(name: str, key: Signer) -> None:
    assert isinstance(key, PrivateKey)
    Path(name).write_bytes(key.encrypted(b"secret"))


def sevfork(line: str) -> int:
    return command.run(App(), shlex.split(line))


def authorize(line: str, key: str = "owner") -> int:
    return sevfork(f"owner authorize --key {key} --allow-simulated -o token {line}")


def test_a_token_allows_one_fork_and_then_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert authorize("web --children 2") == 0
    assert capsys.readouterr().out == "authorised 2 children of 'web', in one fork\n"
    assert sevfork("fork web -n 2 --token token") == 0
    capsys.readouterr()
    assert sevfork("fork web --token token") == 23
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_fork_without_a_token_says_what_its_owner_types(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert sevfork("fork web -n 3") == 23
    error, hint = capsys.readouterr().err.splitlines()
    assert error == "error: this VM's policy asks for a token of its owner"
    found = re.search(r"sevfork (owner authorize .*)$", hint)
    assert found is not None
    assert found[1] == "owner authorize web --children 3 -o TOKEN"
    assert unknown_options(shlex.split(found[1])) == set()
    assert sevfork(f"{found[1]} --key owner --allow-simulated") == 0
    assert sevfork("fork web -n 3 --token TOKEN") == 0


def test_a_standing_token_is_spent_by_forks_and_by_a_pools_children(
    house: FakeHouse, capsys: pytest.CaptureFixture[str]
) -> None:
    assert authorize("web --children 4 --standing --valid 2h --json") == 0
    told = json.loads(capsys.readouterr().out)
    token = OwnerToken.decode(Path("token").read_bytes())
    assert (told["vm"], told["children"], told["standing"]) == ("web", 4, True)
    assert (told["serial"], told["chips"]) == (f"{token.serial:016x}", [])
    assert told["not_after"].endswith("+00:00")
    assert sevfork("fork web --token token") == 0
    pool_of(house, 2, Path("token").read_bytes())
    assert sevfork("fork web -n 3 --token token --all-or-nothing") == 0
    capsys.readouterr()
    assert sevfork("fork web --cold --token token") == 23
    assert "is spent" in capsys.readouterr().err


def test_a_pool_launches_no_more_children_than_its_token_allows(house: FakeHouse) -> None:
    assert authorize("web --children 1 --standing") == 0
    (refused,) = pool_of(house, 2, Path("token").read_bytes())[1:]
    assert "is spent" in refused
    (refused,) = pool_of(house, 2, None)
    assert "asks for a token" in refused


def pool_of(house: FakeHouse, size: int, token: bytes | None) -> list[str]:
    """What a pool says until there is nothing that it could launch now; the snapshot apart."""
    said: list[str] = []
    pool = Pool(house, PoolRequest("web", size, 1000.0, 5000.0, token), said.append, lambda: None)
    while pool._step() == 0.0:  # noqa: SLF001 - one look at a time
        pass
    return [text for text in said if "snapshot was begun anew" not in text]


def test_a_time_that_is_a_hint_is_said_to_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert authorize("web --children 1 --valid 2h") == 0
    assert "a hint, no guarantee" in capsys.readouterr().err
    assert authorize("web --children 1 --valid 99999999999999h") == 2
    assert "no time is so far away" in capsys.readouterr().err


def test_a_child_is_authorised_as_its_parent_is() -> None:
    assert authorize("web --children 1") == 0
    assert sevfork("fork web --token token") == 0
    assert authorize("web-fork --children 1") == 0
    assert sevfork("fork web --token token") == 23, "it is the child's"
    assert sevfork("fork web-fork --token token") == 0


def test_what_an_operator_has_saved_is_authorised_without_a_host(
    monkeypatch: pytest.MonkeyPatch, house: FakeHouse
) -> None:
    saved = f"lineage web --owner '{OWNER_LINE}' --allow-simulated --save web.json"
    assert sevfork(saved) == 0
    with monkeypatch.context() as away:
        away.delattr(connection_choice, "connect")
        assert authorize("web.json --children 1") == 0
    assert sevfork("fork web --token token") == 0


def test_nobody_signs_for_a_vm_that_is_not_theirs(capsys: pytest.CaptureFixture[str]) -> None:
    write_key("stranger", PrivateKey.generate())
    assert authorize("web --children 1", key="stranger") == 22
    assert "another owner" in capsys.readouterr().err
    assert not Path("token").exists()


def test_nobody_signs_for_a_vm_that_is_not_adopted(
    house: FakeHouse, capsys: pytest.CaptureFixture[str]
) -> None:
    owned_root(house, Image.load(Path("image")), "another")
    assert authorize("another --children 1") == 22
    error, hint = capsys.readouterr().err.splitlines()
    assert error == "error: lineage: no owner has adopted the root"
    assert "sevfork owner adopt" in hint


def test_nobody_signs_for_a_vm_that_shows_no_evidence(capsys: pytest.CaptureFixture[str]) -> None:
    assert sevfork(f"lineage web --owner '{OWNER_LINE}' --allow-simulated --save web.json") == 0
    saved = SavedLineage.read(Path("web.json"))
    SavedLineage(vm=saved.vm, lineage=saved.lineage).write(Path("bare.json"))
    capsys.readouterr()
    assert authorize("bare.json --children 1") == 20
    assert "no evidence" in capsys.readouterr().err
    assert sevfork("owner authorize web --key owner --children 1 -o token") == 21
    assert not Path("token").exists()


def test_a_token_for_another_chip_is_refused_by_the_parent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert authorize(f"web --children 1 --chips {'0f' * 64},{'0e' * 16}") == 0
    assert "on 2 chip(s)" in capsys.readouterr().out
    assert sevfork("fork web --token token") == 23
    assert "other chips" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("chips", "reason"),
    [("xyz", "hexadecimal"), ("0f", "64 bytes"), (",".join(["0f" * 16] * 65), "at most 64")],
)
def test_what_names_no_chip_is_refused(
    chips: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert authorize(f"web --children 1 --chips {chips}") == 2
    assert reason in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("content", [b"", b"no token", bytes(20_000)])
def test_a_file_that_is_no_token_is_refused(
    content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("token").write_bytes(content)
    assert sevfork("fork web --token token") == (2 if len(content) > 16384 else 23)
    assert "token" in capsys.readouterr().err
    assert sevfork("fork web --token nonsuch") == 2


def test_the_owner_in_the_token_is_the_one_who_signed() -> None:
    assert authorize("web --children 1") == 0
    assert OwnerToken.decode(Path("token").read_bytes()).owner_key == OWNER_KEY
