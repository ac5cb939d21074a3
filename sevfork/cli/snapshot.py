"""``sevfork snapshot``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from sevfork.cli.options import App, as_json, common, duration, recorded

if TYPE_CHECKING:
    from sevfork.host.hypervisor import Hypervisor
    from sevfork.lifecycle.snapshot.update import Snapshot


@click.command()
@click.argument("vm")
@click.option(
    "--every",
    metavar="DURATION",
    type=duration,
    help="Go on, and bring it up to date this often, until SIGTERM or Ctrl-C.",
)
@click.option("--drop", is_flag=True, help="End the VM's snapshot instead, and delete its volume.")
@click.option("--timeout", metavar="DURATION", type=duration, default="300s", show_default=True)
@as_json
@common
@recorded("vm")
def snapshot(
    app: App, vm: str, every: float | None, drop: bool, timeout: float, as_json: bool
) -> None:
    """Begin a snapshot of the running VM, or bring it up to date: a fork then takes the rest only.

    What was written since the last update is all that is copied. With --every it tells a service
    manager that it is ready after the first one.
    """
    if drop and every:
        raise click.UsageError("--drop ends a snapshot, --every keeps one")
    hypervisor = app.hypervisor()
    if drop:
        _drop(app, hypervisor, vm, timeout, as_json)
        return
    _print(app, vm, _update(app, hypervisor, vm, timeout), as_json)
    if every:
        from sevfork.host.service_manager import notify_ready

        notify_ready()
    while every:
        time.sleep(every)
        _print(app, vm, _update(app, hypervisor, vm, timeout), as_json)


def _update(app: App, hypervisor: Hypervisor, vm: str, timeout: float) -> Snapshot:
    from sevfork.deadline import Deadline
    from sevfork.lifecycle.find import running_vm
    from sevfork.lifecycle.job import Job
    from sevfork.lifecycle.snapshot.update import update_snapshot

    _, spec = running_vm(hypervisor, vm, "keep a snapshot")
    with app.output.watching() as watch:
        return update_snapshot(Job(hypervisor, Deadline.after(timeout), watch), spec)


def _drop(app: App, hypervisor: Hypervisor, vm: str, timeout: float, as_json: bool) -> None:
    from sevfork.deadline import Deadline
    from sevfork.lifecycle.find import running_vm
    from sevfork.lifecycle.job import Job
    from sevfork.lifecycle.snapshot.update import drop_snapshot

    domain, spec = running_vm(hypervisor, vm, "keep a snapshot")
    dropped = drop_snapshot(Job(hypervisor, Deadline.after(timeout)), spec)
    if as_json:
        app.output.json({"vm": domain.name, "dropped": dropped})
    else:
        app.output.note(f"'{domain.name}' keeps no snapshot{' any more' if dropped else ''}")


def _print(app: App, vm: str, snapshot: Snapshot, as_json: bool) -> None:
    made = snapshot.made
    for note in snapshot.notes:
        app.output.note(note)
    if as_json:
        app.output.json(
            {
                "vm": vm,
                "layers": made.layers,
                "begun_anew": made.begun_anew or None,
                "pause_ms": round(made.pause_ms, 1),
                "state_bytes": made.state_bytes,
                "sealed_bytes": made.sealed_bytes,
                "free_bytes": made.free_bytes,
                "kept_bytes": made.kept_bytes,
            }
        )
        return
    what = f"begun anew ({made.begun_anew})" if made.begun_anew else "brought up to date"
    app.output.data(
        f"snapshot of '{vm}' {what}: {made.state_bytes / 2**20:.1f} MiB, "
        f"pause {made.pause_ms:.0f} ms, {made.layers} layers"
    )
