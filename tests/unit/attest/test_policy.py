"""A policy is complete, strict and says what it leaves open; each single omission is an error."""

from __future__ import annotations

import contextlib
import hashlib
import re
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevfork.attest.bits import Bits
from sevfork.attest.defaults import HARDWARE_ROOTS, policy_toml
from sevfork.attest.guest_policy import GuestPolicy, guest_policy_toml
from sevfork.attest.policy import Policy, SnpPolicy, TdxPolicy
from sevfork.errors import UsageError
from sevfork.technology import Technology
from tests.support import REPOSITORY

WHEN = datetime(2026, 3, 1, tzinfo=UTC)
ROOT = "ab" * 32
BOTH = policy_toml([Technology.SEV_SNP, Technology.TDX], [ROOT], WHEN)
FIELDS = [line for line in BOTH.splitlines() if " = " in line]


def without(line: str) -> str:
    return BOTH.replace(line + "\n", "", 1)


def replaced(old: str, new: str) -> bytes:
    assert old in BOTH
    return BOTH.replace(old, new, 1).encode()


def test_whole_policy_loads() -> None:
    policy = Policy.decode(BOTH.encode())
    assert policy.accepts(Technology.SEV_SNP)
    assert policy.accepts(Technology.TDX)
    assert not policy.accepts(Technology.SIMULATED)
    assert policy.not_before == WHEN


@pytest.mark.parametrize("line", sorted(set(FIELDS)))
def test_policy_that_does_not_speak_of_a_field_is_an_error(line: str) -> None:
    with pytest.raises(UsageError, match="the attestation policy is not valid"):
        Policy.decode(without(line).encode())


@pytest.mark.parametrize("name", ["guest_policy", "platform"])
def test_policy_without_a_table_is_an_error(name: str) -> None:
    text = re.sub(rf"\[snp\.{name}\]\nallowed = .*\nrequired = .*\n", "", BOTH)
    assert text != BOTH
    with pytest.raises(UsageError, match=name):
        Policy.decode(text.encode())


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("schema = 1", "schema = 2", "schema"),
        ("schema = 1", "schema = 1\nsurprise = 1", "surprise"),
        ("[snp]", "[snp]\nsurprise = 1", "surprise"),
        (ROOT, ROOT.upper(), "lower-case hexadecimal"),
        (ROOT, ROOT[2:], "32 bytes"),
        ('measurements = "any"', 'measurements = "all"', "measurements"),
        ('measurements = "any"', f'measurements = ["{ROOT}"]', "48 bytes"),
        ('measurements = "any"', 'measurements = ["any"]', "48 bytes"),
        ('technologies = ["sev-snp", "tdx"]', 'technologies = ["sev-snp"]', "tdx"),
        ('technologies = ["sev-snp", "tdx"]', 'technologies = ["sev"]', "technologies"),
        ('signing_keys = ["vcek"]', 'signing_keys = ["none"]', "signing_keys"),
        ("vmpl = [0]", "vmpl = [4]", "vmpl"),
        ("vmpl = [0]", "vmpl = 0", "vmpl"),
        ("vmpl = [0]", "vmpl = [0]\nvmpl = [1]", "overwrite"),
        ('"single-socket"', '"single-sockets"', "no bit is called 'single-sockets'"),
        ('minimum_abi = "0.0"', 'minimum_abi = "1"', "minimum_abi"),
        ('minimum_firmware = "0.0.0"', 'minimum_firmware = "1.55.300"', "above 255"),
        ("allow_provisional_firmware = false", 'allow_provisional_firmware = "no"', "provisional"),
        ("microcode = 0", "microcode = 256", "microcode"),
        ("microcode = 0", "microcode = 0\nfmc = 0", "fmc"),
        ("[snp.minimum_tcb.Milan]", "[snp.minimum_tcb.Rome]", "minimum_tcb"),
        ("fmc = 0\n", "", "fmc"),
        ("T00:00:00Z", "T00:00:00", "timezone"),
        ('crl = "optional"', "crl = false", "crl"),
    ],
)
def test_faulty_policy_is_an_error_that_says_where(old: str, new: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        Policy.decode(replaced(old, new))
    assert caught.value.hint


def test_empty_lists_are_valid_and_accept_nothing() -> None:
    policy = Policy.decode(replaced(f'roots = ["{ROOT}"]', "roots = []"))
    assert policy.roots == ()


@given(st.binary(max_size=100))
def test_no_bytes_end_in_a_traceback(data: bytes) -> None:
    for load in (Policy.decode, GuestPolicy.decode):
        with contextlib.suppress(UsageError):
            load(data)


@given(st.integers(0, len(BOTH) - 1), st.binary(min_size=1, max_size=6))
def test_no_changed_policy_ends_in_a_traceback(place: int, value: bytes) -> None:
    data = BOTH.encode()
    with contextlib.suppress(UsageError):
        Policy.decode(data[:place] + value + data[place + len(value) :])


def test_deeply_nested_toml_is_an_error_and_not_a_crash() -> None:
    with pytest.raises(UsageError):
        Policy.decode(b"schema = " + b"[" * 100_000)


# The guest's policy


@pytest.mark.parametrize("technology", list(Technology))
@pytest.mark.parametrize("fork", ["owner", "anyone"])
def test_images_policy_accepts_its_own_technology_only(technology: Technology, fork: str) -> None:
    text = guest_policy_toml(technology, fork, [ROOT], WHEN)  # type: ignore[arg-type]
    policy = GuestPolicy.decode(text.encode())
    assert (policy.fork, policy.launch, policy.chip) == (fork, "self", "same")
    assert policy.attest.technologies == (technology.value,)
    assert policy.attest.roots == (ROOT,)
    assert policy.attest.not_before == WHEN
    assert policy.digest == hashlib.sha384(text.encode()).digest()
    assert technology.label in text.splitlines()[0]


def test_images_policy_for_hardware_has_a_floor_above_zero() -> None:
    text = guest_policy_toml(Technology.SEV_SNP, "owner", [ROOT], WHEN)
    snp = GuestPolicy.decode(text.encode()).attest.snp
    assert snp is not None
    assert snp.minimum_tcb["Milan"].microcode == 0xDB
    assert "Simulated" not in snp.minimum_tcb


def test_images_policy_for_hardware_pins_the_published_roots() -> None:
    for technology, roots in HARDWARE_ROOTS.items():
        text = guest_policy_toml(technology, "owner", [], WHEN)
        assert GuestPolicy.decode(text.encode()).attest.roots == roots
    text = guest_policy_toml(Technology.SIMULATED, "owner", [], WHEN)
    assert GuestPolicy.decode(text.encode()).attest.roots == ()


def test_images_policy_for_tdx_wants_rtmr3_untouched_and_collateral() -> None:
    text = guest_policy_toml(Technology.TDX, "owner", [], WHEN)
    tdx = GuestPolicy.decode(text.encode()).attest.tdx
    assert tdx is not None
    assert (tdx.rtmr3, tdx.collateral) == (("00" * 48,), "required")


@pytest.mark.parametrize("table", [Policy, SnpPolicy, TdxPolicy, Bits])
def test_each_field_is_in_the_documentation(table: type[msgspec.Struct]) -> None:
    text = (REPOSITORY / "docs" / "attestation.md").read_text()
    missing = [name for name in table.__struct_fields__ if f"`{name}`" not in text]
    assert missing == []


GUEST = guest_policy_toml(Technology.SIMULATED, "anyone", [ROOT], WHEN)


@pytest.mark.parametrize(
    "name",
    [
        "schema",
        "fork",
        "launch",
        "chip",
        "offer_lifetime_s",
        "image_key_lifetime_s",
        "warm_lifetime_s",
    ],
)
def test_guest_policy_that_does_not_speak_of_a_field_is_an_error(name: str) -> None:
    text = re.sub(rf"(?m)^{name} = .*\n", "", GUEST, count=1)
    with pytest.raises(UsageError, match=name):
        GuestPolicy.decode(text.encode())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('fork = "anyone"', 'fork = "everyone"'),
        ('launch = "self"', 'launch = "any"'),
        ("offer_lifetime_s = 600", "offer_lifetime_s = 0"),
        ("offer_lifetime_s = 600", "offer_lifetime_s = 99999999"),
        ("warm_lifetime_s = 86400", "warm_lifetime_s = 0"),
        ("warm_lifetime_s = 86400", "warm_lifetime_s = 2592001"),
        ('chip = "same"', 'chip = "other"'),
        ('chip = "same"', 'chip = ["c1"]'),
        ("[attest]", "[attest]\nsurprise = 1"),
    ],
)
def test_faulty_guest_policy_is_an_error(old: str, new: str) -> None:
    assert old in GUEST
    with pytest.raises(UsageError):
        GuestPolicy.decode(GUEST.replace(old, new, 1).encode())


def test_list_of_chips_narrows_what_evidence_is_accepted() -> None:
    chip = "c1" * 64
    policy = GuestPolicy.decode(GUEST.replace('chip = "same"', f'chip = ["{chip}"]', 1).encode())
    assert policy.attest.snp is not None
    assert policy.attest.snp.chips == (chip,)


def test_two_lists_of_chips_are_an_error() -> None:
    chip = "c1" * 64
    text = GUEST.replace('chip = "same"', f'chip = ["{chip}"]', 1)
    with pytest.raises(UsageError, match="chips"):
        GuestPolicy.decode(text.replace('chips = "any"', "chips = []", 1).encode())


def listing_chips(technologies: list[Technology], chip: str) -> str:
    """A guest's policy with a list of chips; ``guest_policy_toml`` is for one technology."""
    text = guest_policy_toml(Technology.TDX, "anyone", [ROOT], WHEN)
    head = text.partition("[attest]")[0].replace('chip = "same"', f'chip = ["{chip}"]')
    return head + policy_toml(technologies, [ROOT], WHEN, section="attest")


def test_a_list_of_chips_is_one_of_platforms_on_tdx() -> None:
    policy = GuestPolicy.decode(listing_chips([Technology.TDX], "d2" * 16).encode())
    assert policy.attest.tdx is not None
    assert policy.attest.tdx.platforms == ("d2" * 16,)


@pytest.mark.parametrize(
    ("technologies", "chip", "why"),
    [
        ([Technology.TDX], "d2" * 64, "16 bytes"),
        ([Technology.SEV_SNP, Technology.TDX], "d2" * 64, "one kind of processor"),
        ([], "d2" * 64, "one kind of processor"),
    ],
)
def test_a_list_of_chips_must_say_all_of_where_a_peer_may_run(
    technologies: list[Technology], chip: str, why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        GuestPolicy.decode(listing_chips(technologies, chip).encode())


def test_policies_are_immutable() -> None:
    with pytest.raises(AttributeError):
        GuestPolicy.decode(GUEST.encode()).attest.roots = ()  # type: ignore[misc]
