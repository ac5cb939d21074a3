"""``sevfork logs``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

from sevfork.cli.options import App, as_json, common

if TYPE_CHECKING:
    from sevfork.lifecycle.logs import Reader


@click.command()
@click.argument("vm")
@click.option("-f", "--follow", is_flag=True, help="Go on until the workload has ended.")
@click.option(
    "-n",
    "--tail",
    metavar="LINES",
    type=click.IntRange(min=0),
    help="The last so many lines.  [default: all that is kept]",
)
@as_json
@common
def logs(app: App, vm: str, follow: bool, tail: int | None, as_json: bool) -> None:
    """Show what the running VM's workload has printed: the last MiB of it.

    As it was printed, into a pipe or a file; a terminal gets it without what would drive it.
    """
    from sevfork.deadline import Deadline
    from sevfork.lifecycle.find import running_vm
    from sevfork.lifecycle.job import Job
    from sevfork.lifecycle.logs import Reader, last_lines

    hypervisor = app.hypervisor()
    _, spec = running_vm(hypervisor, vm, "be read")
    reader = Reader(Job(hypervisor, Deadline.after(math.inf)), spec)
    _show(app, reader, last_lines(reader.news(), tail), as_json, always=not follow)
    if follow:
        for data in reader.follow():
            _show(app, reader, data, as_json, always=False)


def _show(app: App, reader: Reader, data: bytes, as_json: bool, *, always: bool) -> None:
    if as_json and (data or always):
        text = data.decode(errors="replace")
        told = {"vm": reader.spec.name, "text": text, "end_bytes": reader.position}
        app.output.json(told | {"lost_bytes": reader.lost_bytes})
    elif not as_json:
        app.output.foreign(data)
