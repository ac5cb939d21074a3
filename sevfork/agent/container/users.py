"""Who a workload runs as: found in the files of its own root, never in the guest's or the host's.

A name or a number, with a group after a colon or without, as container images have it. The files
are an image's, which somebody else has made: they are opened through no link that leads out of the
root, and read up to a limit; a line that is not well formed is no line.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from sevfork.agent.container.tree import parent_of, resolve
from sevfork.errors import RefusedByGuest, UsageError

_LARGEST_FILE = 1 << 20
_LARGEST_ID = 2**31 - 1
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class User(Struct, frozen=True):
    """Who the workload runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


class _Account(Struct, frozen=True):
    name: str
    uid: int
    gid: int
    home: str


class _Group(Struct, frozen=True):
    name: str
    gid: int
    members: tuple[str, ...]


def find(root: Path, words: str) -> User:
    """The user that ``words`` name below ``root``; ``root`` is there without any file.

    ``NAME``, ``UID``, ``NAME:GROUP``... A number needs no entry. A group that is given stands
    alone; else the user's own and those that list it. Raise UsageError if it is not there.
    """
    name, _, group_name = words.partition(":")
    account = _account(root, name)
    if group_name:
        return User(account.uid, _group(root, group_name), (), account.home)
    listed = {group.gid for group in _groups(root) if account.name in group.members}
    return User(account.uid, account.gid, tuple(sorted(listed)), account.home)


def _account(root: Path, name: str) -> _Account:
    number = _id(name)
    for account in _accounts(root):
        if account.name == name or account.uid == number:
            return account
    if number is not None:
        return _Account("", number, 0, "/")
    if name == "root":
        return _Account("root", 0, 0, "/")
    raise UsageError(f"workload file: the image has no user '{name}'; which package makes it?")


def _group(root: Path, name: str) -> int:
    number = _id(name)
    for group in _groups(root):
        if group.name == name:
            return group.gid
    if number is None:
        raise UsageError(f"workload file: the image has no group '{name}'")
    return number


def _accounts(root: Path) -> Iterator[_Account]:
    for fields in _entries(root, "etc/passwd", 7):
        uid, gid = _id(fields[2]), _id(fields[3])
        if uid is not None and gid is not None:
            yield _Account(fields[0], uid, gid, fields[5] or "/")


def _groups(root: Path) -> Iterator[_Group]:
    for fields in _entries(root, "etc/group", 4):
        gid = _id(fields[2])
        if gid is not None:
            yield _Group(fields[0], gid, tuple(filter(None, fields[3].split(","))))


def _entries(root: Path, path: str, fields: int) -> list[list[str]]:
    """Lines with as many fields as there should be, and a name."""
    lines = [line.split(":") for line in _text(root, path).splitlines()]
    return [line for line in lines if len(line) == fields and line[0]]


def _text(root: Path, path: str) -> str:
    try:
        with parent_of(root, resolve(root, path)) as (directory, name):
            descriptor = os.open(name, _FLAGS, dir_fd=directory)
    except (OSError, RefusedByGuest):
        return ""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return ""
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(_LARGEST_FILE + 1)
    if len(content) > _LARGEST_FILE:
        raise UsageError(f"the image's '/{path}' is larger than {_LARGEST_FILE} bytes")
    return content.decode(errors="replace")


def _id(text: str) -> int | None:
    """A user's or group's number; None if it is none."""
    if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _LARGEST_ID:
        return int(text)
    return None
