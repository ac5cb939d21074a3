"""An owner's key, by the file that the owner has: the key, or the public half of an agent's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from sevfork.handshake.owner_signature import Signer
from sevfork.owner.key_file import read_key
from sevfork.owner.passphrase import passphrase_for
from sevfork.owner.public_key import is_public_key, parse_public_key
from sevfork.owner.read import read_text
from sevfork.owner.ssh_agent import AgentKey

__all__ = ["Signer", "default_key", "open_key"]


def default_key(environ: Mapping[str, str]) -> Path:
    home = environ.get("HOME", "/")
    return Path(environ.get("XDG_CONFIG_HOME") or f"{home}/.config") / "sevfork/owner.pem"


def open_key(path: Path | None, passphrase_file: Path | None = None) -> Signer:
    """The key in this file, or the default one; that of the ssh-agent, for a public key.

    An encrypted key's passphrase is asked for where it is needed. Raises UsageError, HostCannot.
    """
    path = path or default_key(os.environ)
    text = read_text("the owner's key", path, hint="'sevfork owner init' makes one")
    if is_public_key(text):
        return AgentKey.of(parse_public_key(text), os.environ)
    return read_key(path, text, lambda: passphrase_for(path, os.environ, passphrase_file))
