"""What is printed cannot drive the terminal that it is printed on."""

from __future__ import annotations

import pytest

from sevfork.cli.output import Output
from sevfork.errors import SevforkError


def test_names_from_another_host_make_no_rows_and_no_escapes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Output().table(["NAME"], [["web\x1b[2J\nfake-row\x9b1m"]])
    out = capsys.readouterr().out
    assert out.count("\n") == 2
    assert not {"\x1b", "\x9b"} & set(out)


def test_an_errors_lines_are_moved_in_and_lose_their_escapes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Output().error(SevforkError("bad\x1b]0;title\x07", hint="one\ntwo"))
    err = capsys.readouterr().err
    assert not {"\x1b", "\x07"} & set(err)
    assert err.splitlines()[1:] == ["hint: one", "  two"]


def test_a_document_with_nan_is_never_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Output().json({"pause_ms": float("nan")})
    assert capsys.readouterr().out == ""
