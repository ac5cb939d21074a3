"""Whether the process that made something still lives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sevfork.host import maker


def test_this_process_lives() -> None:
    assert not maker.is_dead(maker.this_process())
    assert not maker.tagged_by_the_dead(f"sf-1234.{maker.tag()}.sealed")


@pytest.mark.parametrize("change", [{"pid": 2**22 + 1}, {"start": 1}, {"boot": "an earlier one"}])
def test_a_process_that_is_gone_is_dead_also_when_its_pid_was_given_away(
    change: dict[str, int | str],
) -> None:
    assert maker.is_dead(replace(maker.this_process(), **change))  # type: ignore[arg-type]


def test_a_process_on_another_machine_is_never_judged() -> None:
    elsewhere = replace(maker.this_process(), host="elsewhere pid:[1]", pid=2**22 + 1)
    assert not maker.is_dead(elsewhere)


def test_two_machines_of_the_same_name_are_two(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = maker.this_process()
    other = tmp_path / "machine-id"
    other.write_text("0123456789abcdef0123456789abcdef\n")
    monkeypatch.setattr(maker, "MACHINE_ID", other)
    assert maker.this_process().host != here.host
    assert not maker.is_dead(replace(here, boot="another", pid=2**22 + 1))


def test_the_tag_in_a_volume_name_tells_the_dead() -> None:
    host, boot, pid, start = maker.tag().split("-")
    assert maker.tagged_by_the_dead(f"sf-12.{host}-{boot}-{pid}-{int(start) + 1}.sealed")
    assert maker.tagged_by_the_dead(f"sf-12.{host}-00000000-{pid}-{start}.sealed")
    assert not maker.tagged_by_the_dead(f"sf-12.m00000000-{boot}-{pid}-1.sealed")


@pytest.mark.parametrize("name", ["web.log", "image-00.img", "m1-2-3-4", "precious.qcow2", ""])
def test_a_volume_without_a_tag_is_nobodys(name: str) -> None:
    assert not maker.tagged_by_the_dead(name)
