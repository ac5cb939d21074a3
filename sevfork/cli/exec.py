"""``sevfork exec``."""

from __future__ import annotations

import math
import os
import select
import sys
from collections.abc import Sequence

import click

from sevfork.cli.options import App, common, duration, recorded

_SIGNALLED = 128


@click.command()
@click.argument("vm")
@click.argument("command", metavar="-- COMMAND...", nargs=-1, required=True)
@click.option("-i", "--interactive", is_flag=True, help="Pass standard input on.")
@click.option("--timeout", metavar="DURATION", type=duration, help="[default: without end]")
@common
@recorded("vm")
def exec(
    app: App, vm: str, command: Sequence[str], interactive: bool, timeout: float | None
) -> int:
    """Run a command inside the running VM, beside its workload and as its user.

    Ends with the command's exit status, or 128 and the signal that ended it. While it runs the VM
    cannot be forked. COMMAND has an absolute path, or is found in the image's PATH.
    """
    from sevfork.deadline import Deadline
    from sevfork.lifecycle.find import running_vm
    from sevfork.lifecycle.inside import Inside, NoInput
    from sevfork.lifecycle.job import Job

    hypervisor = app.hypervisor()
    _, spec = running_vm(hypervisor, vm, "run a command")
    job = Job(hypervisor, Deadline.after(math.inf if timeout is None else timeout))
    source = StandardInput() if interactive else NoInput()
    inside = Inside(job, spec, source, app.output.foreign, app.output.foreign_error)
    returncode = inside.run(command)
    return returncode if returncode >= 0 else _SIGNALLED - returncode


class StandardInput:
    """This process's own, which is read when there is something to be read."""

    over = False

    def read(self, most: int) -> bytes:
        if self.over or most <= 0 or not select.select([sys.stdin], [], [], 0)[0]:
            return b""
        data = os.read(sys.stdin.fileno(), most)
        self.over = not data
        return data
