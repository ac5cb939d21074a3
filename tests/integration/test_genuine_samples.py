"""``scripts/genuine-samples`` takes what is pinned, and nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from sevfork.process import CommandFailed, run
from tests.support import REPOSITORY

CONTENT = b"evidence\n"


def git(repository: Path, *words: str) -> str:
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    return run(["git", "-C", str(repository), *identity, *words], timeout_s=30).stdout.strip()


@pytest.fixture
def commit(tmp_path: Path) -> str:
    """A commit of a repository that the script can fetch from."""
    repository = tmp_path / "github/some/project"
    repository.mkdir(parents=True)
    (repository / "report.bin").write_bytes(CONTENT)
    for words in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "-m", "x")):
        git(repository, *words)
    return git(repository, "rev-parse", "HEAD")


def fetch(folder: Path, commit: str, content: bytes) -> Path:
    line = f"{hashlib.sha256(content).hexdigest()} report.bin milan/report.bin"
    pins = folder / "pins.toml"
    pins.write_text(
        f'[[repository]]\nname = "some/project"\ncommit = "{commit}"\nfiles = ["{line}"]'
    )
    output = folder / "out/samples"
    script = REPOSITORY / "scripts/genuine-samples"
    environ = {"SEVFORK_GITHUB": f"file://{folder}/github"}
    run([str(script), str(pins), str(output)], timeout_s=60, env=environ)
    return output


def test_a_pinned_file_of_a_pinned_commit_is_fetched(tmp_path: Path, commit: str) -> None:
    assert (fetch(tmp_path, commit, CONTENT) / "milan/report.bin").read_bytes() == CONTENT


def test_a_file_of_another_hash_is_refused_and_leaves_nothing(tmp_path: Path, commit: str) -> None:
    with pytest.raises(CommandFailed, match="is not the file that is pinned"):
        fetch(tmp_path, commit, b"another")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_commit_that_the_repository_lacks_is_refused(tmp_path: Path, commit: str) -> None:
    with pytest.raises(CommandFailed):
        fetch(tmp_path, "0" * len(commit), CONTENT)
    assert list((tmp_path / "out").iterdir()) == []
