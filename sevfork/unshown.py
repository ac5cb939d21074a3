"""Data that no log, traceback or debugger shows."""

from __future__ import annotations


class Unshown:
    """Before ``Struct`` among a class's bases: its ``repr`` is its name."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"
