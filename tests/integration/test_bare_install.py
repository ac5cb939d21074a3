"""``pip install sevfork`` alone: all that an owner needs, on a machine without libvirt."""

from __future__ import annotations

import json
import os
import shutil
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from sevfork.handshake import Allowance, OwnerToken
from sevfork.process import CommandFailed, run
from sevfork.technology import Technology
from sevfork.verifier.policies import verifiers_policy
from tests.support import REPOSITORY, simulators
from tests.support.owners import OWNER, OWNER_DIGEST, OWNER_LINE, STRANGER_LINE, lineage_file

pytestmark = pytest.mark.machine

INSTALL_TIMEOUT_S = 240
COMMAND_TIMEOUT_S = 60
Command = Callable[..., str]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a virtual environment that sees nothing else of this machine."""
    place = tmp_path_factory.mktemp("bare")
    source, environment = place / "source", place / "environment"
    # A copy: setuptools writes beside what it builds.
    shutil.copytree(REPOSITORY / "sevfork", source / "sevfork")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    venv.create(environment, with_pip=True)
    pip = [str(environment / "bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, str(source)], timeout_s=INSTALL_TIMEOUT_S)
    return environment / "bin"


@pytest.fixture
def bare(installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Runs one of its programs and gives its stdout."""
    for name in [name for name in os.environ if name.startswith("PYTHON")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def command(program: str, *words: str) -> str:
        return run([str(installed / program), *words], timeout_s=COMMAND_TIMEOUT_S).stdout

    return command


@pytest.mark.parametrize("module", ["libvirt", "lxml"])
def test_what_only_a_host_needs_is_not_there(bare: Command, module: str) -> None:
    with pytest.raises(CommandFailed, match=module):
        bare("python", "-c", f"import {module}")


@pytest.mark.parametrize("verb", ["owner", "lineage", "verify"])
def test_an_owners_verbs_are_there(bare: Command, verb: str) -> None:
    assert f"Usage: sevfork {verb}" in bare("sevfork", verb, "--help")


@pytest.mark.parametrize(
    "words", [("ls",), ("lineage", "web", "--owner", OWNER_LINE)], ids=["ls", "lineage"]
)
def test_what_asks_a_host_says_what_it_lacks(bare: Command, words: tuple[str, ...]) -> None:
    with pytest.raises(CommandFailed, match=r"exited with 13: hint: pip install 'sevfork\[host\]'"):
        bare("sevfork", *words)


def test_a_lineage_is_checked(bare: Command, tmp_path: Path) -> None:
    processor = simulators.processor()
    file, policy = tmp_path / "lineage", tmp_path / "policy.toml"
    lineage_file(processor, 4).write(file)
    policy.write_text(verifiers_policy([Technology.SIMULATED], [processor.root_fingerprint]))
    words = ("lineage", str(file), "--policy", str(policy), "--allow-simulated", "--owner")
    told = json.loads(bare("sevfork", *words, OWNER_LINE, "--json"))
    assert [member["generation"] for member in told["members"]] == [0, 1, 2, 3, 4]
    with pytest.raises(CommandFailed, match="another owner"):
        bare("sevfork", *words, STRANGER_LINE)


def test_an_owner_makes_a_key_and_signs_a_token(bare: Command, tmp_path: Path) -> None:
    """With an encrypted key: what decrypts it has to be installed too."""
    processor = simulators.processor()
    policy, passphrase = tmp_path / "policy.toml", tmp_path / "passphrase"
    lineage_file(processor, 1).write(tmp_path / "lineage")
    policy.write_text(verifiers_policy([Technology.SIMULATED], [processor.root_fingerprint]))
    passphrase.write_text("correct horse\n")
    secret = ("--passphrase-file", str(passphrase))
    made = bare("sevfork", "owner", "init", "-o", "another", *secret)
    assert bare("sevfork", "owner", "public", "--key", "another", *secret) == made
    (tmp_path / "owner").write_bytes(OWNER.encrypted(b"correct horse"))
    judged = ("--policy", str(policy), "--allow-simulated", "--children", "2", "-o", "token")
    bare("sevfork", "owner", "authorize", "lineage", *judged, "--key", "owner", *secret)
    token = OwnerToken.decode((tmp_path / "token").read_bytes())
    token.check(OWNER_DIGEST)
    assert token.allowed == Allowance(2)
    with pytest.raises(CommandFailed, match="another owner"):
        bare("sevfork", "owner", "authorize", "lineage", *judged, "--key", "another", *secret)
