"""Which CRIU a guest may have: asked when an image is built, and again when its agent starts.

Before 4.2, CRIU gave the state of the vDSO's getrandom (``MAP_DROPPABLE`` pages) to whatever it
restored, so that two children drew the same random numbers: seen with Debian 13's 4.1.1. Whoever
withholds packages from a build must not bring that back.
"""

from __future__ import annotations

import re

from sevfork import process
from sevfork.errors import SevforkError

OLDEST = (4, 2)
_TIMEOUT_S = 60.0
_PRINTED = re.compile(r"^Version: (\S+)$", re.M)
_VERSION = re.compile(r"(?:\d+:)?(\d+)\.(\d+)(?!\d)")


def is_new_enough(version: str) -> bool:
    """Whether a version, CRIU's own (``4.2.1``) or a package's (``4.2.1-1``), is 4.2 or later."""
    found = _VERSION.match(version)
    return found is not None and (int(found[1]), int(found[2])) >= OLDEST


def require_version() -> None:
    """Raise SevforkError unless this guest's CRIU is new enough, and says so."""
    check_printed(process.run(["criu", "--version"], timeout_s=_TIMEOUT_S).stdout)


def check_printed(text: str) -> None:
    """``text`` is what ``criu --version`` prints; raise SevforkError for an old one."""
    found = _PRINTED.search(text)
    if found is None or not is_new_enough(found[1]):
        said = found[1] if found else "of no known version"
        raise SevforkError(
            f"CRIU is {said}, and with one older than 4.2 siblings draw the same random numbers"
        )
