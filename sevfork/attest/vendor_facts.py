"""Minimum TCBs and versions, each with its source: ``vendor_facts.toml``.

The file is the host's: an image's policy is made of it when the image is built, and is measured.
Guests have this module, as they have the whole room, and never read the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from sevfork.attest.bits import Strict
from sevfork.attest.policy import Svn, version
from sevfork.attest.snp.report import Cpuid, Product, Tcb
from sevfork.technology import Technology

PATH = Path(__file__).with_name("vendor_facts.toml")
# What every new image insists on, or all that is known.
TcbLevel = Literal["required", "newest"]
Component = Literal["libvirt", "QEMU", "Linux"]
Key = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]$")]
Text = Annotated[str, msgspec.Meta(min_length=1)]


class Source(Strict, frozen=True):
    """Where a figure is from. ``second_hand``: from somebody who quotes the vendor."""

    title: Text
    where: Text
    read: date
    second_hand: bool


class Bulletin(Strict, frozen=True):
    """``mended_in``: the vendor's firmware packages, in the vendor's words."""

    name: Text
    cves: tuple[Text, ...]
    published: date
    fixes: Text
    mended_in: tuple[Text, ...]
    source: str


class Silicon(Strict, frozen=True):
    cpuid: Key
    name: Text
    product: Literal["Milan", "Genoa", "Turin"]


class Floor(Strict, frozen=True):
    """From which patch levels on one kind of silicon has a bulletin mended."""

    bulletin: str
    cpuid: Key
    required: bool
    sources: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    snp: Svn | None = None
    microcode: Svn | None = None

    def __post_init__(self) -> None:
        if self.snp is None and self.microcode is None:
            raise ValueError(f"the floor of {self.bulletin} for {self.cpuid} has no figure")

    def met_by(self, snp: int | None, microcode: int) -> bool:
        """Whether these patch levels are enough; an SNP firmware that is not known counts as so."""
        return microcode >= (self.microcode or 0) and (snp is None or snp >= (self.snp or 0))


class Mitigation(Strict, frozen=True):
    """A bit of the mitigation vectors; no ``products``: on all of them."""

    bit: Annotated[int, msgspec.Meta(ge=0, le=63)]
    bulletins: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    products: tuple[Literal["Milan", "Genoa", "Turin"], ...]
    source: str


class Requirement(Strict, frozen=True):
    """The least version of one component that a technology needs of a host."""

    technology: Technology
    component: Component
    version: str
    why: Text
    source: str

    def __post_init__(self) -> None:
        version("requirements.version", self.version, 2)

    @property
    def numbers(self) -> tuple[int, ...]:
        return version("requirements.version", self.version, 2)


class Remark(Strict, frozen=True):
    about: Technology
    text: Text
    source: str


class VendorFacts(Strict, frozen=True):
    schema: Literal[1]
    sources: dict[str, Source]
    bulletins: tuple[Bulletin, ...]
    silicon: tuple[Silicon, ...]
    floors: tuple[Floor, ...]
    mitigations: tuple[Mitigation, ...]
    requirements: tuple[Requirement, ...]
    remarks: tuple[Remark, ...]

    def silicon_of(self, cpuid: Cpuid) -> Silicon | None:
        return next((each for each in self.silicon if each.cpuid == key(cpuid)), None)

    def floors_of(self, cpuid: Key, level: TcbLevel = "newest") -> tuple[Floor, ...]:
        return tuple(
            floor
            for floor in self.floors
            if floor.cpuid == cpuid and (floor.required or level == "newest")
        )

    def bulletin(self, name: str) -> Bulletin:
        return next(each for each in self.bulletins if each.name == name)

    def requirements_of(self, technology: Technology) -> Mapping[Component, Requirement]:
        mine = (each for each in self.requirements if each.technology is technology)
        return {each.component: each for each in mine}

    def minimum_tcb(self, level: TcbLevel) -> dict[Product, Tcb]:
        """By product, the strictest of its silicon: what a report is held to that names none."""
        return {product: self._strictest(product, level) for product in _PRODUCTS}

    def _strictest(self, product: Product, level: TcbLevel) -> Tcb:
        floors = [
            floor
            for silicon in self.silicon
            if silicon.product == product.value
            for floor in self.floors_of(silicon.cpuid, level)
        ]
        snp = max(floor.snp or 0 for floor in floors)
        microcode = max(floor.microcode or 0 for floor in floors)
        return Tcb(0, 0, snp, microcode, 0 if product is Product.TURIN else None)

    def minimum_microcode(self, level: TcbLevel) -> dict[Product, dict[str, int]]:
        """By product, then by model and stepping as a policy names them (``a0/2``)."""
        minimum: dict[Product, dict[str, int]] = {product: {} for product in _PRODUCTS}
        for silicon in self.silicon:
            floors = self.floors_of(silicon.cpuid, level)
            name = silicon.cpuid.split("/", 1)[1]
            microcode = max(floor.microcode or 0 for floor in floors)
            minimum[Product(silicon.product)][name] = microcode
        return minimum


_PRODUCTS = (Product.MILAN, Product.GENOA, Product.TURIN)


def key(cpuid: Cpuid) -> str:
    """Family, model and stepping as the file has them: ``19/a0/2``."""
    return f"{cpuid.family:02x}/{cpuid.model_and_stepping}"


@cache
def vendor_facts() -> VendorFacts:
    return decode(PATH.read_bytes())


def decode(data: bytes) -> VendorFacts:
    """Raise msgspec.DecodeError or ValueError unless every name in it leads somewhere."""
    facts = msgspec.toml.decode(data, type=VendorFacts)
    dangling = sorted(set(_dangling(facts)))
    if dangling:
        raise ValueError(f"vendor facts: nothing is called '{dangling[0]}'")
    return facts


def _dangling(facts: VendorFacts) -> Iterator[str]:
    bulletins = {each.name for each in facts.bulletins}
    silicon = {each.cpuid for each in facts.silicon}
    for floor in facts.floors:
        yield from {floor.bulletin} - bulletins
        yield from {floor.cpuid} - silicon
        yield from set(floor.sources) - set(facts.sources)
    for mitigation in facts.mitigations:
        yield from set(mitigation.bulletins) - bulletins
    one_source: list[Bulletin | Mitigation | Requirement | Remark]
    one_source = [*facts.bulletins, *facts.mitigations, *facts.requirements, *facts.remarks]
    yield from {each.source for each in one_source} - set(facts.sources)
