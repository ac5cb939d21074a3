"""The domain XML against libvirt's own RELAX NG schema.

The installed one serves for plain guests. Launch security needs one of libvirt 11.10 or later:
``scripts/libvirt-schemas`` fetches Debian's newest into ``build/``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from lxml import etree

from tests.support import REPOSITORY

GOLDEN = REPOSITORY / "tests/unit/domain/golden"
INSTALLED = Path("/usr/share/libvirt/schemas")
NEWEST = Path(os.environ.get("SEVFORK_LIBVIRT_SCHEMAS", REPOSITORY / "build/libvirt-schemas"))
PLAIN = sorted(path for path in GOLDEN.glob("*.xml") if "<launchSecurity" not in path.read_text())
CONFIDENTIAL = sorted(set(GOLDEN.glob("*.xml")) - set(PLAIN))


def schema(folder: Path) -> etree.RelaxNG:
    path = folder / "domain.rng"
    if not path.exists():
        pytest.skip(f"no libvirt schemas in '{folder}' (scripts/libvirt-schemas fetches them)")
    return etree.RelaxNG(etree.parse(path))


def knows_tdx(folder: Path) -> bool:
    common = folder / "domaincommon.rng"
    return common.exists() and "launchSecurityTDX" in common.read_text()


@pytest.mark.parametrize("folder", [INSTALLED, NEWEST], ids=["installed", "newest"])
@pytest.mark.parametrize("path", PLAIN, ids=lambda path: path.stem)
def test_a_plain_domain_is_valid(folder: Path, path: Path) -> None:
    schema(folder).assertValid(etree.parse(path))


@pytest.mark.parametrize("path", CONFIDENTIAL, ids=lambda path: path.stem)
def test_a_confidential_domain_is_valid(path: Path) -> None:
    folder = INSTALLED if knows_tdx(INSTALLED) else NEWEST
    schema(folder).assertValid(etree.parse(path))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("<policy>0x", "<policy>yes"),
        ("<cbitpos>51", "<cbitpos>high"),
        ('kernelHashes="yes"', 'kernelHashes="true"'),
        ('type="rom"', 'type="ram"'),
        ('<ioapic driver="qemu"', '<ioapic driver="host"'),
    ],
)
def test_the_schema_does_reject_a_spoilt_domain(right: str, wrong: str) -> None:
    validator = schema(INSTALLED if knows_tdx(INSTALLED) else NEWEST)
    texts = [path.read_text() for path in CONFIDENTIAL if right in path.read_text()]
    assert texts
    for text in texts:
        assert not validator.validate(etree.fromstring(text.replace(right, wrong)))
