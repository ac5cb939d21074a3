"""Which CRIU a guest may have: asked when an image is built, and again when its agent starts.

Before 4.2, CRIU gave the state of the vDSO's getrandom (``MAP_DROPPABLE`` pages) to whatever it
restored, so that two children drew the same random numbers: seen with Debian 13's 4.1.1. Whoever
withholds packages from a build must not bring that back.
"""

from __future__ import annotations

import re

OLDEST = (4, 2)
_VERSION = re.compile(r"(?:\d+:)?(\d+)\.(\d+)(?!\d)")


def is_new_enough(version: str) -> bool:
    """Whether a version, CRIU's own (``4.2.1``) or a package's (``4.2.1-1``), is 4.2 or later."""
    found = _VERSION.match(version)
    return found is not None and (int(found[1]), int(found[2])) >= OLDEST
