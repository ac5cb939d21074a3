"""What children are called when nobody says."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator

from sevfork.errors import NameTaken, UsageError

# What libvirt, a host name and a shell all take without quoting; 50 leaves room for socket paths.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,49}")


def check_name(name: str) -> str:
    """The name itself, or UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' cannot be a VM's name",
            hint="letters, digits, '.', '_' and '-', at most 50 of them",
        )
    return name


def child_names(
    parent: str, name: str | None, count: int, taken: Collection[str], *, replace: bool = False
) -> list[str]:
    """Names for ``count`` children: ``x-fork``, ``x-fork1``, ... as virt-clone numbers its clones.

    Names that were asked for must be free (or ``replace``); default names skip what is taken.
    Raises NameTaken, UsageError.
    """
    base = check_name(name if name else f"{parent}-fork")
    numbered: Iterator[str] = itertools.chain(
        [base], (f"{base}{number}" for number in itertools.count(1))
    )
    if not name:
        numbered = (each for each in numbered if each not in taken)
    names = [check_name(each) for each in itertools.islice(numbered, count)]
    clash = [each for each in names if each in taken]
    if parent in names:
        raise NameTaken(f"'{parent}' is the parent's own name")
    if clash and not replace:
        raise NameTaken(f"'{clash[0]}' exists already", hint="choose another --name, or --replace")
    return names
