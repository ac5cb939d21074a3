"""Each label has one meaning: it stands once in the code, and once in the specification."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.support import REPOSITORY

IN_CODE = re.compile(r'b"(sevfork/1 [^"]*)"')
HKDF_LABELS = {
    "handshake.md": ["grant", "confirm", "event", "parent event", "update", "resume", "activate"],
    "sealed-image.md": ["commit", "chunk"],
}
SIGNATURE_LABELS = ["join", "certificate"]
NAMESPACES = ["owner-certificate@sevfork", "owner-token@sevfork"]


def labels_in_code() -> Counter[str]:
    sources = (REPOSITORY / "sevfork").rglob("*.py")
    return Counter(label for path in sources for label in IN_CODE.findall(path.read_text()))


def test_no_label_is_used_for_two_things() -> None:
    repeated = [label for label, count in labels_in_code().items() if count > 1]
    assert repeated == []


@pytest.mark.parametrize(
    ("document", "label"),
    [(document, label) for document, labels in HKDF_LABELS.items() for label in labels]
    + [("handshake.md", label) for label in SIGNATURE_LABELS],
)
def test_label_stands_once_in_code_and_specification(document: str, label: str) -> None:
    text = (REPOSITORY / "docs" / document).read_text()
    assert labels_in_code()[f"sevfork/1 {label}"] == 1
    assert len(re.findall(rf'[`"]sevfork/1 {label}[`"]', text)) == 1


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_namespace_stands_once_in_code_and_specification(namespace: str) -> None:
    """What an owner signs, OpenSSH's way, is told apart by these."""
    sources = (REPOSITORY / "sevfork").rglob("*.py")
    assert sum(path.read_text().count(f'"{namespace}"') for path in sources) == 1
    assert (REPOSITORY / "docs/handshake.md").read_text().count(f"`{namespace}`") == 1
