"""The kernel's settings are as they were after a restore, failed or not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from sevfork.agent import kernel


@pytest.mark.parametrize(
    ("setting", "changed"),
    [("_NONLOCAL_BIND", kernel.binding_allowed), ("_OVERCOMMIT", kernel.reserving_allowed)],
)
def test_a_setting_is_changed_for_the_block_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    changed: Callable[[], AbstractContextManager[None]],
) -> None:
    place = tmp_path / "setting"
    place.write_text("0\n")
    monkeypatch.setattr(f"sevfork.agent.kernel.{setting}", place)

    def fail_inside() -> None:
        with changed():
            assert place.read_text() == "1"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_inside()
    assert place.read_text() == "0\n"
