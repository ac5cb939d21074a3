"""``sevfork pool``."""

from __future__ import annotations

import time

import click

from sevfork.cli.options import App, common, duration, owners_token, recorded
from sevfork.wire.protocol import MAX_CHILDREN


@click.command()
@click.argument("vm")
@click.option(
    "--size",
    type=click.IntRange(1, MAX_CHILDREN),
    default=1,
    show_default=True,
    help="How many warm children to keep.",
)
@click.option(
    "--every",
    metavar="DURATION",
    type=duration,
    default="30s",
    show_default=True,
    help="How often the snapshot and the warm children are brought up to date.",
)
@click.option(
    "--max-lag",
    metavar="DURATION",
    type=duration,
    default="10m",
    show_default=True,
    help="A warm child that was not brought up to date for so long is replaced, never used.",
)
@owners_token
@common
@recorded("vm")
def pool(app: App, vm: str, size: int, every: float, max_lag: float, token: bytes | None) -> None:
    """Keep warm children of the running VM, for 'sevfork fork' to take, until SIGTERM or Ctrl-C.

    A warm child is launched and attested, and holds the VM's snapshot in its own memory; a fork
    gives it what was written since. When this command ends, so do the children nobody has taken.
    Each child that it launches is one of those that a standing token allows.
    It tells a service manager that it is ready when the pool is full for the first time.
    """
    from sevfork.host.service_manager import notify_ready
    from sevfork.lifecycle.warm.pool import Pool, PoolRequest

    if max_lag <= every:
        raise click.UsageError("--max-lag must be longer than --every")

    def full() -> None:
        app.output.note(f"the pool of '{vm}' is full: {size} warm")
        notify_ready()

    request = PoolRequest(vm, size, every, max_lag, token)
    Pool(app.hypervisor(), request, app.output.note, full, app.gather()).keep(time.sleep)
