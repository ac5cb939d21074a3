"""A workload table as TOML: what a guest reads is the one file, wherever its keys came from.

The standard library reads TOML and does not write it. One value a line is enough here, and what is
written is read again by a test.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from sevfork.errors import UsageError


def render(table: Mapping[str, object]) -> bytes:
    """Sorted by key, every table inline. Raise UsageError for what TOML cannot hold."""
    lines = [f"{_text(key)} = {_value(value)}\n" for key, value in sorted(table.items())]
    return "".join(lines).encode()


def _value(value: object) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        pairs = (f"{_text(key)} = {_value(item)}" for key, item in sorted(value.items()))
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    raise UsageError(f"workload file: a value that cannot be kept: {value!r}")


def _text(text: str) -> str:
    """JSON's string is TOML's but for DEL, where nothing but control characters is escaped."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise UsageError("workload file: a text that is not Unicode") from exc
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
