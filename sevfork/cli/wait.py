"""``sevfork wait``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

from sevfork.cli.options import App, as_json, common, duration, lost_after
from sevfork.cli.output import error_document
from sevfork.wire.protocol import status_and_signal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sevfork.lifecycle.wait import Ending


@click.command()
@click.argument("vms", metavar="VM...", nargs=-1, required=True)
@click.option("--any", "any_of_them", is_flag=True, help="Until one of them has ended.")
@click.option("--timeout", metavar="DURATION", type=duration, help="[default: without end]")
@lost_after
@as_json
@common
def wait(
    app: App,
    vms: tuple[str, ...],
    any_of_them: bool,
    timeout: float | None,
    lost_after: float,
    as_json: bool,
) -> int:
    """Wait until the VMs' workloads have ended, and end as they did.

    The exit code is the workload's exit status, or 128 and the signal that ended it; for several
    VMs that of the first, in the order given, where it is not 0. The VMs stay: 'sevfork rm'.
    """
    from sevfork.deadline import Deadline
    from sevfork.lifecycle.job import Job
    from sevfork.lifecycle.wait import wait_for

    deadline = Deadline.after(math.inf if timeout is None else timeout)
    job = Job(app.hypervisor(), deadline)
    endings = wait_for(
        job, vms, any_of_them=any_of_them, lost_after_s=lost_after, note=app.output.note
    )
    if as_json:
        app.output.json({"vms": [_document(ending) for ending in endings]})
    else:
        app.output.table(["VM", "WORKLOAD"], [[each.name, str(each)] for each in endings])
    return _exit_code(endings)


def _document(ending: Ending) -> dict[str, object]:
    """Exactly one of ``status``, ``signal`` and ``error`` is not null."""
    return {
        "name": ending.name,
        "uuid": ending.uuid,
        **status_and_signal(None if ending.error else ending.returncode),
        "error": ending.error and error_document(ending.error),
    }


def _exit_code(endings: Sequence[Ending]) -> int:
    """Of the first that is not 0. Raises its error, where that is why."""
    decisive = next((each for each in endings if each.exit_code), None)
    if decisive is None:
        return 0
    if decisive.error:
        raise decisive.error
    return decisive.exit_code
