"""The systemd units in the documents are such as systemd takes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from sevfork.process import CommandFailed, Completed, run

DOCS = Path(__file__).resolve().parents[2] / "docs"
_UNIT = re.compile(
    r"`/etc/systemd/system/(?P<name>[\w-]+@\.service)`:\n+```ini\n(?P<text>.*?)```", re.DOTALL
)
UNITS = {
    found["name"]: found["text"]
    for page in sorted(DOCS.glob("*.md"))
    for found in _UNIT.finditer(page.read_text())
}
pytestmark = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd is not installed"
)


def verify(folder: Path, name: str, text: str) -> Completed:
    """What systemd-analyze says of it, for a VM named web; ``sevfork`` need not be installed."""
    unit = folder / name.replace("@", "@web")
    unit.write_text(text.replace("/usr/bin/sevfork", "/usr/bin/true"))
    return run(["systemd-analyze", "verify", "--man=no", str(unit)], timeout_s=60)


def test_both_are_found() -> None:
    assert sorted(UNITS) == ["sevfork-events@.service", "sevfork-pool@.service"]


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_taken(name: str, tmp_path: Path) -> None:
    said = verify(tmp_path, name, UNITS[name])
    assert str(tmp_path) not in said.stdout + said.stderr


@pytest.mark.parametrize("name", UNITS)
def test_a_vm_whose_name_has_a_dash_is_meant(name: str) -> None:
    """%I would make 'web/fork' of it."""
    assert " %i" in UNITS[name]
    assert "%I" not in UNITS[name]


@pytest.mark.parametrize("name", UNITS)
def test_one_with_a_fault_is_not(name: str, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed):
        verify(tmp_path, name, UNITS[name].replace("/usr/bin/", "bin/"))
