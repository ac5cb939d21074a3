"""The domain XML against libvirt's own RELAX NG schema, of whatever version is installed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from lxml import etree

GOLDEN = Path(__file__).parents[1] / "unit/host/golden"
SCHEMAS = Path(os.environ.get("SEVFORK_LIBVIRT_SCHEMAS", "/usr/share/libvirt/schemas"))


@pytest.fixture(scope="module")
def schema() -> etree.RelaxNG:
    path = SCHEMAS / "domain.rng"
    if not path.exists():
        pytest.skip(f"no libvirt schemas in '{SCHEMAS}' (Debian: libvirt0 or libvirt-common)")
    return etree.RelaxNG(etree.parse(path))


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*-tcg.xml")), ids=lambda path: path.stem)
def test_domain_xml_is_valid(schema: etree.RelaxNG, path: Path) -> None:
    schema.assertValid(etree.parse(path))


def test_the_schema_does_reject(schema: etree.RelaxNG) -> None:
    document = etree.parse(GOLDEN / "root-tcg.xml")
    document.getroot().append(etree.Element("nonsense"))
    assert not schema.validate(document)
