"""What the vendors say, and what an image's policy makes of it."""

from __future__ import annotations

import re
import tomllib
from datetime import UTC, date, datetime
from pathlib import Path

import msgspec
import pytest

import sevfork
from sevfork.attest.guest_policy import GuestPolicy, guest_policy_toml
from sevfork.attest.policy import SnpPolicy
from sevfork.attest.snp.report import Cpuid, Product, Tcb
from sevfork.attest.vendor_facts import PATH, TcbLevel, VendorFacts, decode, vendor_facts
from sevfork.image.contents import agent_files
from sevfork.technology import Technology
from sevfork.verifier.floors import floors_for
from tests.support import REPOSITORY
from tests.support.fake_amd import Part, failed

NOW = datetime(2026, 11, 26, tzinfo=UTC)
FACTS = vendor_facts()
TEXT = PATH.read_text()
LEVELS: tuple[TcbLevel, ...] = ("required", "newest")
PACKAGE = Path(sevfork.__file__).parent
# SNP and microcode, by silicon: what AMD-SB-3019 asks, and what was known in November 2026.
REQUIRED = {
    "19/01/1": (0x18, 0xDB),
    "19/01/2": (0x18, 0x44),
    "19/11/1": (0x17, 0x54),
    "19/11/2": (0x17, 0x4F),
    "19/a0/1": (0x17, 0x17),
    "19/a0/2": (0x17, 0x19),
    "1a/02/1": (0x04, 0x50),
    "1a/11/0": (0x04, 0x47),
}
NEWEST = {
    **{cpuid: (0x1B, microcode) for cpuid, (_, microcode) in REQUIRED.items() if cpuid < "1a"},
    "19/11/1": (0x1B, 0x56),
    "19/11/2": (0x1B, 0x51),
    "1a/02/1": (0x04, 0x51),
    "1a/11/0": (0x04, 0x47),
}


def snp_section(level: TcbLevel) -> SnpPolicy:
    """Of the policy that an image gets."""
    floors = floors_for(Technology.SEV_SNP, [], NOW, crl="optional", tcb=level)
    text = guest_policy_toml(Technology.SEV_SNP, "owner", (), NOW, floors)
    snp = GuestPolicy.decode(text.encode()).attest.snp
    assert snp is not None
    return snp


def verdict(level: TcbLevel, cpuid: str, snp: int, microcode: int) -> list[str]:
    """The checks that evidence of such a host fails under an image's minimum TCB."""
    family, model, stepping = (int(part, 16) for part in cpuid.split("/"))
    product = Cpuid(family, model, stepping).product
    turin = product is Product.TURIN
    tcb = Tcb(1, 1, snp, microcode, 1) if turin else Tcb(4, 0, snp, microcode)
    part = Part(product=product.value, tcb=tcb, patches={0x188: bytes([family, model, stepping])})
    return failed(part.judge(minimum_tcb=dict(snp_section(level).minimum_tcb)))


BELOW = ["TCB of the certificate", "TCB at launch"]


@pytest.mark.parametrize("cpuid", REQUIRED)
@pytest.mark.parametrize(("level", "table"), [("required", REQUIRED), ("newest", NEWEST)])
def test_a_patched_host_is_accepted_and_an_unpatched_one_is_not(
    level: TcbLevel, table: dict[str, tuple[int, int]], cpuid: str
) -> None:
    snp, microcode = table[cpuid]
    assert verdict(level, cpuid, snp, microcode) == []
    assert verdict(level, cpuid, snp - 1, microcode) == BELOW
    assert verdict(level, cpuid, snp, microcode - 1) == BELOW


def test_every_kind_of_silicon_has_a_figure() -> None:
    assert {each.cpuid for each in FACTS.silicon} == set(REQUIRED)


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
@pytest.mark.parametrize("level", LEVELS)
def test_a_report_that_names_no_silicon_has_to_meet_the_strictest_of_the_product(
    level: TcbLevel, product: str
) -> None:
    minimum = snp_section(level).minimum_tcb[product]  # type: ignore[index]
    assert minimum.microcode == max(minimum.microcode_by_stepping.values())


@pytest.mark.parametrize("level", LEVELS)
def test_a_products_silicon_has_one_floor_for_snp_firmware(level: TcbLevel) -> None:
    """So that the policy, which has one by product, is right for each of them."""
    table = {"required": REQUIRED, "newest": NEWEST}[level]
    for silicon in FACTS.silicon:
        minimum = FACTS.minimum_tcb(level)[Product(silicon.product)]
        assert table[silicon.cpuid][0] == minimum.snp, silicon.name


def test_silicon_is_of_the_product_that_its_cpuid_says() -> None:
    for silicon in FACTS.silicon:
        cpuid = Cpuid(*(int(part, 16) for part in silicon.cpuid.split("/")))
        assert cpuid.product.value == silicon.product
        assert FACTS.silicon_of(cpuid) == silicon
    assert FACTS.silicon_of(Cpuid(0x19, 0x21, 0)) is None


# The file


def test_every_source_has_a_date() -> None:
    assert all(each.read <= date(2026, 11, 26) for each in FACTS.sources.values())


def test_every_source_is_one_of_something() -> None:
    names = re.findall(r"^sources? = (.*)$", TEXT, re.MULTILINE)
    assert {name for line in names for name in re.findall(r'"([^"]+)"', line)} == set(FACTS.sources)


def test_every_floor_is_second_hand_as_long_as_amds_pages_were_not_read() -> None:
    named = {name for floor in FACTS.floors for name in floor.sources}
    assert all(FACTS.sources[name].second_hand for name in named)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('source = "amd-cve"', 'source = "amd"'),
        ('sources = ["ccf-6812"', 'sources = ["ccf"'),
        ('bulletin = "AMD-SB-3019"', 'bulletin = "AMD-SB-3091"'),
        ('bulletins = ["AMD-SB-3020"]', 'bulletins = ["AMD-SB-3021"]'),
        ('cpuid = "19/01/1"\nsnp', 'cpuid = "19/01/3"\nsnp'),
    ],
)
def test_a_name_that_leads_nowhere_is_an_error(old: str, new: str) -> None:
    assert old in TEXT
    with pytest.raises(ValueError, match="nothing is called"):
        decode(TEXT.replace(old, new, 1).encode())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\nsecond_hand = true\n", "\n"),
        ("\nrequired = true\n", "\n"),
        ("microcode = 0xDB", "microcode = 0x1DB"),
        ('sources = ["linux-4b28f084"]', "sources = []"),
        ('version = "9.1"', 'version = "9"'),
        ("microcode = 0x47\n", ""),
        ("bit = 1\n", "bit = 1\nwhy = 1\n"),
    ],
)
def test_what_is_left_out_or_out_of_range_is_an_error(old: str, new: str) -> None:
    assert old in TEXT
    with pytest.raises((msgspec.ValidationError, ValueError)):
        decode(TEXT.replace(old, new, 1).encode())


def test_each_technology_says_what_it_needs_of_every_component() -> None:
    for technology in (Technology.SEV_SNP, Technology.TDX):
        assert set(FACTS.requirements_of(technology)) == {"libvirt", "QEMU", "Linux"}
    assert FACTS.requirements_of(Technology.SEV_SNP)["libvirt"].numbers == (10, 10)


def test_the_file_is_the_hosts_and_not_in_an_image() -> None:
    names = agent_files(PACKAGE, Technology.SEV_SNP)
    assert not [name for name in names if not name.endswith(".py")]


def test_data_files_of_the_package_are_installed_with_it() -> None:
    tables = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        path
        for package, globs in tables["package-data"].items()
        for pattern in globs
        for path in REPOSITORY.joinpath(*package.split(".")).glob(pattern)
    }
    data = {p for p in PACKAGE.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert PATH in data
    assert data <= found


def test_facts_are_read_once() -> None:
    assert vendor_facts() is vendor_facts()
    assert isinstance(FACTS, VendorFacts)
