"""What runs in a guest imports nothing but the standard library, cryptography and msgspec."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import sevfork

PACKAGE = Path(sevfork.__file__).parent
HOST_ONLY = {"simulator.py", "kds.py", "launch_digest.py"}
GUEST = [path for path in (PACKAGE / "attest").rglob("*.py") if path.name not in HOST_ONLY]
ALLOWED = {*sys.stdlib_module_names, "cryptography", "msgspec", "sevfork"}


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("path", GUEST, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_guest_side_of_attestation_has_no_host_dependency(path: Path) -> None:
    names = imported(path)
    assert {name.split(".")[0] for name in names} <= ALLOWED
    assert not names & {f"sevfork.attest.{Path(name).stem}" for name in HOST_ONLY}
