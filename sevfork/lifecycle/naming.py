"""What children are called when nobody says."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator

from sevfork.errors import NameTaken, UsageError

# What libvirt, a host name and a shell all take without quoting; 50 leaves room for socket paths.
_LONGEST = 50
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{_LONGEST - 1}}}")


def check_name(name: str) -> str:
    """The name itself, or UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' cannot be a VM's name",
            hint=f"letters, digits, '.', '_' and '-', at most {_LONGEST} of them",
        )
    return name


def child_names(
    parent: str, name: str | None, count: int, taken: Collection[str], *, replace: bool = False
) -> list[str]:
    """Names for ``count`` children: ``x-fork``, ``x-fork1``, ... as virt-clone numbers its clones.

    Names that were asked for must be free (or ``replace``); default names skip what is taken, and
    always fit: a descendant's name is cut short. Raises NameTaken, UsageError.
    """
    numbers = itertools.chain([""], map(str, itertools.count(1)))
    if name is None:
        free = (each for each in _defaults(parent, numbers) if each not in {parent, *taken})
        return list(itertools.islice(free, count))
    names = [check_name(f"{name}{number}") for number in itertools.islice(numbers, count)]
    clash = [each for each in names if each in taken]
    if parent in names:
        raise NameTaken(f"'{parent}' is the parent's own name")
    if clash and not replace:
        raise NameTaken(f"'{clash[0]}' exists already", hint="choose another --name, or --replace")
    return names


def _defaults(parent: str, numbers: Iterable[str]) -> Iterator[str]:
    for number in numbers:
        suffix = f"-fork{number}"
        yield parent[: _LONGEST - len(suffix)] + suffix
