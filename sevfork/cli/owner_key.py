"""``sevfork owner init`` and ``public``; the options by which other verbs find an owner's key."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sevfork.cli.options import App, as_json, common

if TYPE_CHECKING:
    from sevfork.owner.signer import Signer

_Command = TypeVar("_Command", bound=Callable[..., Any])
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
passphrase_file_option = click.option(
    "--passphrase-file",
    metavar="FILE",
    type=_FILE,
    help="Its first line is the key's passphrase.  [env: SEVFORK_OWNER_PASSPHRASE]",
)


def owners_key(command: _Command) -> _Command:
    """Give a verb --key and --passphrase-file, and pass it ``owner``, a function that opens it.

    A function, so that nobody is asked for a passphrase before everything else is in order.
    """

    @click.option(
        "--key",
        metavar="FILE",
        type=_FILE,
        help="The owner's key, or the public half of one that an ssh-agent has."
        "  [default: ~/.config/sevfork/owner.pem]",
    )
    @passphrase_file_option
    @functools.wraps(command)
    def call(*words: Any, key: Path | None, passphrase_file: Path | None, **options: Any) -> Any:
        def owner() -> Signer:
            from sevfork.owner.signer import open_key

            return open_key(key, passphrase_file)

        return command(*words, owner=owner, **options)

    return call  # type: ignore[return-value]  # click replaces the signature


@click.command()
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write the key.  [default: ~/.config/sevfork/owner.pem]",
)
@passphrase_file_option
@as_json
@common
def init(app: App, output: Path | None, passphrase_file: Path | None, as_json: bool) -> None:
    """Make an owner's key, encrypted with a passphrase, and print its public half.

    A file that exists is left as it is. What `ssh-keygen -t ed25519` makes is as good.
    """
    from sevfork.image.files import write_private
    from sevfork.owner.key_file import PrivateKey
    from sevfork.owner.passphrase import new_passphrase
    from sevfork.owner.signer import default_key

    path = output or default_key(os.environ)
    # Before anybody thinks of a passphrase: whether there can be a file.
    if path.exists():
        write_private(path, b"")
    key = PrivateKey.generate()
    write_private(path, key.encrypted(new_passphrase(path, os.environ, passphrase_file)))
    app.output.note(f"'{path}' is your key; without it and its passphrase nothing can be forked")
    _print(app, key, as_json)


@click.command()
@owners_key
@as_json
@common
def public(app: App, owner: Callable[[], Signer], as_json: bool) -> None:
    """Print the public half of an owner's key: what hosts need for 'sevfork up --owner'."""
    _print(app, owner(), as_json)


def _print(app: App, key: Signer, as_json: bool) -> None:
    from sevfork.owner.public_key import openssh_line

    line = openssh_line(key.public)
    if as_json:
        app.output.json({"owner_key": key.public.hex(), "openssh": line})
    else:
        app.output.data(line)
