"""Every command of the runbook in docs/owner.md, in order, with a host in memory."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from msgspec.structs import replace

from sevfork.cli import main as command
from sevfork.cli.options import App
from sevfork.host import connection_choice
from sevfork.technology import Technology
from sevfork.verifier.policies import verifiers_policy
from tests.support import REPOSITORY, simulators
from tests.support.fake_guests import FakeHouse
from tests.support.image_factory import write_image

PAGE = (REPOSITORY / "docs/owner.md").read_text()
BLOCKS = re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^(?:owner|operator)\$ sevfork (.*)$", "".join(BLOCKS), re.MULTILINE)
# The page says of these that they take it where all is simulated, as it is here.
JUDGING = ("lineage", "attest", "owner adopt", "owner authorize")


@pytest.fixture(autouse=True)
def _two_terminals(house: FakeHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "handle_signals", lambda _app: None)
    monkeypatch.setattr(connection_choice, "connect", lambda _uri, _note: house)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("SEVFORK_OWNER_PASSPHRASE", "correct horse")
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "image")
    policy = replace(house.measured.policy, fork="owner")
    house.measured = replace(house.measured, policy=policy)
    root = simulators.processor().root_fingerprint
    (tmp_path / "policy.toml").write_text(verifiers_policy([Technology.SIMULATED], [root]))


def test_every_command_of_the_runbook_does_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(COMMANDS) >= 10
    for line in COMMANDS:
        typed, _, file = line.partition(" > ")
        words = shlex.split(typed, comments=True)
        if typed.startswith(JUDGING):
            words.append("--allow-simulated")
        code = command.run(App(), words)
        printed = capsys.readouterr()
        assert code == 0, f"{line}: {printed.err}"
        if file:
            Path(file).write_text(printed.out)
