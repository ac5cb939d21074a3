"""Whether a directory is one's own all the way down from ``/``: nobody else decides what it is.

Root writes configuration into a state directory and believes the socket and the PID that it finds
there. Whoever may write to a directory on the way can put a link or a directory of theirs there.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sevfork.errors import InsecureRefused


def require_own(path: Path) -> None:
    """Raise InsecureRefused unless every part of an absolute path that exists is root's or ours.

    A sticky directory (``/tmp``) on the way will do: nobody else renames what is ours in it.
    """
    for part in (*reversed(path.parents), path):
        try:
            found = part.lstat()
        except FileNotFoundError:
            return
        except OSError as exc:
            raise InsecureRefused(f"cannot look at '{part}': {exc.strerror}") from exc
        if problem := _problem(found, last=part == path):
            raise InsecureRefused(
                f"the state directory '{path}' is not safe: '{part}' {problem}",
                hint="choose another with SEVFORK_STATE_DIR: root's own, without links in its path",
            )


def _problem(found: os.stat_result, *, last: bool) -> str | None:
    if found.st_uid not in (0, os.geteuid()):
        return "belongs to somebody else"
    if not stat.S_ISDIR(found.st_mode):
        return "is a link" if stat.S_ISLNK(found.st_mode) else "is no directory"
    shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if shared and (last or not found.st_mode & stat.S_ISVTX):
        return "can be written to by others"
    return None
