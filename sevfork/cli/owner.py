"""``sevfork owner``: what an owner does, on a machine of their own."""

from __future__ import annotations

import click

from sevfork.cli.adoption import adopt, install, nonce, request
from sevfork.cli.authorize import authorize
from sevfork.cli.owner_key import init, public


@click.group()
def owner() -> None:
    """An owner's key, and what it signs (docs/owner.md)."""


for _command in (init, public, adopt, nonce, request, install, authorize):
    owner.add_command(_command)
