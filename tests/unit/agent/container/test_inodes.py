"""The numbers of a layer's files, as they stand in a capture."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevfork.agent.container import inodes
from sevfork.agent.container.inodes import Name
from sevfork.errors import NotAuthentic, RefusedByGuest

NUMBERS = st.integers(inodes.LARGEST_RESERVED + 1, inodes.LARGEST)
PATHS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@pytest.fixture(autouse=True)
def _real_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inodes, "LARGEST", 4_000_000)


@given(names=st.lists(st.builds(Name, NUMBERS, PATHS)))
def test_names_are_read_as_they_were_written(names: list[Name]) -> None:
    assert inodes.decode(inodes.encode(names)) == names


def test_a_name_that_is_not_text_is_kept() -> None:
    name = Name(7, "caf\udce9 au lait")
    assert inodes.decode(inodes.encode([name])) == [name]


def test_a_workload_with_too_large_numbers_is_refused_with_advice() -> None:
    with pytest.raises(RefusedByGuest, match="more than 4,000,000 files") as refused:
        inodes.encode([Name(inodes.LARGEST + 1, "file")])
    assert refused.value.hint


@pytest.mark.parametrize(
    "content", [b"3 a\0", b"0 a\0", b"-5 a\0", b"a\0", b"\0", b"4000001 a\0", b"\xb2 a\0", b"5 a"]
)
def test_numbers_that_no_file_can_have_are_refused(content: bytes) -> None:
    with pytest.raises(NotAuthentic):
        inodes.decode(content)
