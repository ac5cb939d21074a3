"""The steps on hardware: commands that exist, in an order that makes sense."""

from __future__ import annotations

import pytest

from scripts.hardware.steps import STEPS, Step, steps_for
from sevfork.technology import Technology
from tests.support.command_lines import unknown_options

FIELDS = {
    "vm": "v",
    "work": "/a folder",
    "image": "/image",
    "technology": "tdx",
    "workload": "/w.toml",
    "firmware": "/OVMF.fd",
}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.name}, {step.only}")
def test_every_command_is_one_that_sevfork_takes(step: Step) -> None:
    assert unknown_options(step.words(FIELDS)) == set()


@pytest.mark.parametrize("with_image", [True, False])
@pytest.mark.parametrize("technology", [Technology.SEV_SNP, Technology.TDX])
def test_a_step_comes_after_those_that_it_needs(technology: Technology, with_image: bool) -> None:
    before: list[str] = []
    for step in steps_for(technology, with_image=with_image):
        assert set(step.after) <= set(before), step.name
        assert step.name not in before
        before.append(step.name)
    assert ("image" in before) == with_image


def test_a_folder_with_a_space_is_one_word() -> None:
    words = Step("x", "attest {vm} --save {work}/e").words(FIELDS)
    assert words == ["attest", "v", "--save", "/a folder/e"]


def test_each_technology_builds_its_own_image() -> None:
    for technology in (Technology.SEV_SNP, Technology.TDX):
        (build,) = (step for step in steps_for(technology) if step.name == "image")
        assert ("--crl" in build.command) == (technology is Technology.SEV_SNP)
