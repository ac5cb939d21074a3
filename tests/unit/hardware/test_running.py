"""Steps run by a fake: what passes, what fails, what is not made, and what goes on beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.hardware.running import Outcome, Ran, Sevfork, Status, run_steps
from scripts.hardware.steps import Step
from tests.unit.hardware.fake_runner import FakeRunner

VERBS = ("one", "two", "three", "keep", "owner adopt")


def outcomes(runner: FakeRunner, *steps: Step) -> list[Outcome]:
    return list(run_steps(steps, {"vm": "web"}, runner, VERBS))


def test_what_a_command_printed_is_kept() -> None:
    runner = FakeRunner({"one": Ran(0, '{"schema": 1}', "note\n")})
    (outcome,) = outcomes(runner, Step("first", "one {vm} --json"))
    assert (outcome.status, outcome.data, outcome.stderr) == (Status.PASSED, {"schema": 1}, "note")
    assert runner.ran == [["one", "web", "--json"]]


def test_the_exit_code_that_is_wanted_passes_and_no_other() -> None:
    runner = FakeRunner({"one": Ran(23, "", "refused")})
    refused = Step("refused", "one", exit_code=23)
    first, second = outcomes(runner, refused, Step("allowed", "one"))
    assert first.passed
    assert (second.status, second.why) == (Status.FAILED, "exit code 23, wanted 0")


def test_what_needs_a_step_that_failed_is_not_made() -> None:
    runner = FakeRunner({"one": Ran(1, "", "no")})
    steps = (
        Step("first", "one"),
        Step("second", "two", after=("first",)),
        Step("third", "three", after=("second",)),
        Step("else", "two"),
    )
    made = outcomes(runner, *steps)
    assert [each.status.value for each in made] == ["failed", "skipped", "skipped", "passed"]
    assert made[1].why == "'first' did not pass"
    assert runner.ran == [["one"], ["two"]]


def test_a_verb_that_this_version_lacks_is_said_to_be_lacking() -> None:
    runner = FakeRunner()
    lacking = outcomes(runner, Step("first", "frob {vm}"), Step("second", "owner frob {vm}"))
    assert [(each.status, each.why) for each in lacking] == [
        (Status.SKIPPED, "this version has no 'sevfork frob'"),
        (Status.SKIPPED, "this version has no 'sevfork owner frob'"),
    ]
    assert runner.ran == []


def test_what_goes_on_beside_ends_after_the_last_step() -> None:
    runner = FakeRunner()
    steps = (
        Step("pool", "keep {vm}", until="is full"),
        Step("warm", "two", after=("pool",)),
    )
    assert all(each.passed for each in outcomes(runner, *steps))
    assert runner.ran == [["keep", "web"], ["two"], ["ended", "keep", "web"]]


def test_what_a_step_prints_is_there_for_those_that_follow(tmp_path: Path) -> None:
    runner = FakeRunner({"one": Ran(0, "schema = 1\n", "")})
    steps = [Step("policy", "one", saves="policy.toml"), Step("next", "two {work}/policy.toml")]
    assert all(each.passed for each in run_steps(steps, {"work": str(tmp_path)}, runner, VERBS))
    assert (tmp_path / "policy.toml").read_text() == "schema = 1\n"


def test_what_cannot_be_made_of_it_is_a_failure(tmp_path: Path) -> None:
    def broken(_text: str, work: Path) -> str:
        return (work / "absent").read_text()

    steps = [Step("policy", "one", saves="policy.toml", edit=broken), Step("next", "two")]
    first, second = run_steps(steps, {"work": str(tmp_path)}, FakeRunner(), VERBS)
    assert first.status is Status.FAILED
    assert "'policy.toml' not written" in first.why
    assert second.passed


def test_text_that_is_no_json_stays_text() -> None:
    runner = FakeRunner({"one": Ran(0, "plain", ""), "two": Ran(0, "", "")})
    first, second = outcomes(runner, Step("first", "one"), Step("second", "two"))
    assert (first.data, second.data) == ("plain", None)


def test_only_the_end_of_what_was_said_is_kept() -> None:
    runner = FakeRunner({"one": Ran(1, "", "".join(f"line {n}\n" for n in range(500)))})
    (outcome,) = outcomes(runner, Step("first", "one"))
    assert outcome.stderr.splitlines()[-1] == "line 499"
    assert len(outcome.stderr.splitlines()) == 60


# The command itself


def program(folder: Path, script: str) -> Sevfork:
    path = folder / "sevfork"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return Sevfork(path)


@pytest.mark.own_processes
def test_a_command_is_run_to_its_end(tmp_path: Path) -> None:
    ran = program(tmp_path, 'echo "$@"; echo note >&2; exit 7').run(["up", "a b"], 30)
    assert ran == Ran(7, "up a b\n", "note\n")


@pytest.mark.own_processes
def test_a_command_that_does_not_end_or_is_not_there_fails(tmp_path: Path) -> None:
    assert program(tmp_path, "exec sleep 60").run(["up"], 0.2).exit_code == 124
    assert Sevfork(tmp_path / "absent").run(["up"], 30).exit_code == 124


@pytest.mark.own_processes
def test_a_command_goes_on_once_it_said_what_was_waited_for(tmp_path: Path) -> None:
    runner = program(tmp_path, f"echo 'pool is full' >&2; touch {tmp_path}/full; exec sleep 60")
    with runner.keep(["pool"], "is full", 30) as ran:
        assert ran == Ran(0, "", "pool is full\n")


@pytest.mark.own_processes
def test_a_command_that_ends_before_it_said_so_fails(tmp_path: Path) -> None:
    with program(tmp_path, "echo broken >&2; exit 3").keep(["pool"], "is full", 30) as ran:
        assert ran == Ran(3, "", "broken\n")


@pytest.mark.own_processes
def test_a_command_that_says_nothing_is_ended(tmp_path: Path) -> None:
    with program(tmp_path, "exec sleep 60").keep(["pool"], "is full", 0.2) as ran:
        assert ran.exit_code != 0
