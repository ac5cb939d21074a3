"""``sevfork stop``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sevfork.cli.options import App, as_json, common, duration, recorded
from sevfork.wire.protocol import status_and_signal

if TYPE_CHECKING:
    from sevfork.lifecycle.stop import Stopped

# For what is not the workload's own time: finding its agent, ending it by force, switching off.
_BESIDES_S = 90.0


@click.command()
@click.argument("vm")
@click.option(
    "--timeout",
    metavar="DURATION",
    type=duration,
    default="30s",
    show_default=True,
    help="After that the workload is ended by force.",
)
@as_json
@common
@recorded("vm")
def stop(app: App, vm: str, timeout: float, as_json: bool) -> None:
    """Send the running VM's workload its stop signal, wait for its end, and switch the VM off.

    What it had in memory is gone. The VM stays listed until 'sevfork rm'.
    """
    from sevfork.deadline import Deadline
    from sevfork.lifecycle import stop as stopping
    from sevfork.lifecycle.find import running_vm
    from sevfork.lifecycle.job import Job

    hypervisor = app.hypervisor()
    _, spec = running_vm(hypervisor, vm, "be stopped")
    with app.output.watching() as watch:
        job = Job(hypervisor, Deadline.after(timeout + _BESIDES_S), watch)
        stopped = stopping.stop(job, spec, timeout, app.output.note)
    if as_json:
        app.output.json({"vm": _document(stopped)})
    else:
        app.output.table(["VM", "WORKLOAD"], [[stopped.name, _described(stopped)]])


def _document(stopped: Stopped) -> dict[str, object]:
    told = status_and_signal(stopped.returncode)
    return {"name": stopped.name, "uuid": stopped.uuid, **told, "forced": stopped.forced}


def _described(stopped: Stopped) -> str:
    from sevfork.lifecycle.wait import described

    if stopped.returncode is None:
        return "ended in a way that is not known"
    return described(stopped.returncode) + (", by force" if stopped.forced else "")
