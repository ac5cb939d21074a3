"""How a build says what it is doing: one call when a phase begins."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str], None]
