"""What was measured: rows of a value beside its peer's, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table


@dataclass(frozen=True)
class Row:
    """A value and its unit; where there is a peer, its name and its value.

    ``most``: what the ratio is to be at most. ``note``: why something is missing, or what it is.
    """

    part: str
    what: str
    value: float | None
    unit: str
    peer: str = ""
    peer_value: float | None = None
    most: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Of the value to the peer's."""
        if self.value is None or not self.peer_value:
            return None
        return self.value / self.peer_value

    @property
    def met(self) -> bool | None:
        """Whether the ratio is what it is to be; None where there is no aim or no ratio."""
        ratio = self.ratio
        return None if self.most is None or ratio is None else ratio <= self.most


def missing(part: str, what: str, why: str) -> Row:
    """A row for what could not be measured here."""
    return Row(part, what, None, "", note=f"not measured: {why}")


def table(rows: Sequence[Row], title: str) -> Table:
    shown = Table("", "what", "value", "peer", "ratio", "aim", "", title=title)
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        aim = "" if row.most is None else f"<= {row.most:g} {_verdict(row)}"
        peer = f"{row.peer}: {_amount(row.peer_value, row.unit)}" if row.peer else ""
        shown.add_row(row.part, row.what, _amount(row.value, row.unit), peer, ratio, aim, row.note)
    return shown


def write_json(path: Path, rows: Sequence[Row], environment: dict[str, object]) -> None:
    """All rows with ratio and verdict, and where they were measured."""
    documents = [asdict(row) | {"ratio": row.ratio, "met": row.met} for row in rows]
    document = {"schema": 1, "environment": environment, "rows": documents}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def _verdict(row: Row) -> str:
    return {True: "[green]met[/green]", False: "[red]not met[/red]", None: ""}[row.met]


def _amount(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
