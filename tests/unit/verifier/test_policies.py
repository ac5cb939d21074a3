"""Policies printed to begin with: they say what every field is for and mean what they meant."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from sevfork.attest.bits import SNP_PLATFORM_BITS, SNP_POLICY_BITS, TDX_ATTRIBUTE_BITS, Bits
from sevfork.attest.guest_policy import GuestPolicy
from sevfork.attest.policy import MinimumTcb, Policy, SnpPolicy, TdxPolicy
from sevfork.cli.main import run
from sevfork.cli.options import App
from sevfork.technology import Technology
from sevfork.verifier.policies import (
    decode_policy,
    default_policy,
    images_policy,
    verifiers_policy,
)
from sevfork.verifier.policy_comments import COMMENTS, commented

NOW = datetime(2026, 11, 1, tzinfo=UTC)
ROOT = "ab" * 32
HARDWARE = [Technology.SEV_SNP, Technology.TDX]
Print = Callable[..., tuple[int, str]]


@pytest.fixture
def policy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Print:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)

    def call(*arguments: str) -> tuple[int, str]:
        return run(App(), ["policy", *arguments]), capsys.readouterr().out

    return call


@pytest.mark.parametrize("technologies", [HARDWARE, *([one] for one in Technology)])
def test_comments_change_nothing_of_a_verifiers_policy(technologies: list[Technology]) -> None:
    text = verifiers_policy(technologies, [ROOT])
    assert Policy.decode(commented(text).encode()) == Policy.decode(text.encode())


@pytest.mark.parametrize("technology", list(Technology))
def test_comments_change_nothing_of_an_images_policy(technology: Technology) -> None:
    text = images_policy(technology, [ROOT], NOW)
    plain, explained = (GuestPolicy.decode(t.encode()) for t in (text, commented(text)))
    assert explained.attest == plain.attest
    assert explained.fork == plain.fork


@pytest.mark.parametrize("table", [Policy, SnpPolicy, TdxPolicy])
def test_every_field_has_a_comment(table: type[msgspec.Struct]) -> None:
    text = commented(verifiers_policy(HARDWARE, []))
    tables = {"snp", "tdx", "guest_policy", "platform", "attributes", "minimum_tcb"}
    for name in set(table.__struct_fields__) - tables:
        assert re.search(rf"(?m)^# .*\n{name} = ", text), name


def test_every_comment_is_of_a_field() -> None:
    structs = (Policy, SnpPolicy, TdxPolicy, Bits, MinimumTcb)
    fields = {name for struct in structs for name in struct.__struct_fields__}
    fields |= set(GuestPolicy.__struct_fields__)
    assert {name.split(".")[-1] for name in COMMENTS} <= fields


@pytest.mark.parametrize("names", [SNP_POLICY_BITS, SNP_PLATFORM_BITS, TDX_ATTRIBUTE_BITS])
def test_every_bit_is_named(names: dict[int, str]) -> None:
    text = " ".join(commented(verifiers_policy(HARDWARE, [])).replace("\n#", "").split())
    assert all(name in text for name in names.values())


def test_lines_of_comments_are_short() -> None:
    lines = commented(verifiers_policy(HARDWARE, [])).splitlines()
    assert all(len(line) <= 100 for line in lines if line.startswith("#"))


# The command


def test_what_is_printed_is_what_verify_judges_by(policy: Print) -> None:
    code, text = policy()
    assert code == 0
    assert decode_policy(text.encode()) == default_policy()


def test_an_images_policy_is_taken_by_verify_too(policy: Print) -> None:
    code, text = policy("--for", "image", "--technology", "sev-snp")
    assert code == 0
    assert decode_policy(text.encode()).technologies == ("sev-snp",)


def test_technologies_can_be_chosen(policy: Print) -> None:
    _, text = policy("--technology", "tdx")
    assert "[snp]" not in text
    _, text = policy("--technology", "simulated")
    assert decode_policy(text.encode()).accepts(Technology.SIMULATED)


def test_an_image_is_of_one_technology(policy: Print) -> None:
    code, text = policy("--for", "image", "--technology", "tdx", "--technology", "sev-snp")
    assert (code, text) == (2, "")


def test_json_has_the_text(policy: Print) -> None:
    document = json.loads(policy("--technology", "tdx", "--json")[1])
    assert (document["schema"], document["for"], document["technologies"]) == (1, "verify", ["tdx"])
    assert Policy.decode(document["policy"].encode()).tdx is not None
