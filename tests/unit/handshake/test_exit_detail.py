"""How a workload ended, as the detail of an EVENT."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevfork.errors import NotAuthentic
from sevfork.handshake import exit_detail, returncode_of


@given(st.integers(-64, 255) | st.none())
def test_every_way_to_end_comes_back(returncode: int | None) -> None:
    assert returncode_of(exit_detail(returncode)) == returncode


@pytest.mark.parametrize("detail", [b"\0", b"\1\0", b"\xff\xbf", b"\0\0\0", b"\0\0\0\1", b"x" * 9])
def test_what_no_process_ends_with_is_not_authentic(detail: bytes) -> None:
    with pytest.raises(NotAuthentic):
        returncode_of(detail)
