"""``sevfork events``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from time import sleep
from typing import TYPE_CHECKING

import click

from sevfork.cli.options import App, as_json, common, duration, lost_after
from sevfork.wire.protocol import status_and_signal

if TYPE_CHECKING:
    from sevfork.lifecycle.relay import Event, Relay


@click.command()
@click.argument("vm")
@click.option("--follow", is_flag=True, help="Go on relaying and showing, until SIGTERM or Ctrl-C.")
@click.option(
    "--every",
    metavar="DURATION",
    type=duration,
    default="2s",
    show_default=True,
    help="With --follow: how often the children are listened to.",
)
@lost_after
@as_json
@common
def events(app: App, vm: str, follow: bool, every: float, lost_after: float, as_json: bool) -> None:
    """Relay to the running VM what has happened to its children, and show what it was told.

    The VM's workload has the same in /run/sevfork/children (docs/events.md).
    """
    from sevfork.deadline import Deadline
    from sevfork.lifecycle.find import running_vm
    from sevfork.lifecycle.job import Job
    from sevfork.lifecycle.relay import Relay

    hypervisor = app.hypervisor()
    _, spec = running_vm(hypervisor, vm, "be told of its children")
    job = Job(hypervisor, Deadline.after(math.inf))
    relay = Relay(job, spec, lost_after, app.output.warn)
    _show(app, spec.name, relay.round(), as_json, always=not follow)
    if follow:
        _follow(app, relay, every, as_json)


def _follow(app: App, relay: Relay, every_s: float, as_json: bool) -> None:
    """Until the VM ends, which raises WrongState; one that is paused goes on later."""
    from sevfork.errors import TimedOut, WrongState
    from sevfork.host.service_manager import notify_ready

    notify_ready()
    while True:
        sleep(every_s)
        try:
            heard = relay.round()
        except (TimedOut, WrongState) as exc:
            if not relay.has_parent:
                raise
            app.output.note(f"later: {exc.message}")
        else:
            _show(app, relay.parent.name, heard, as_json, always=False)


def _show(app: App, vm: str, heard: Sequence[Event], as_json: bool, *, always: bool) -> None:
    if not as_json:
        app.output.data(*map(_line, heard))
    elif heard or always:
        app.output.json({"vm": vm, "events": [_document(event) for event in heard]})


def _line(event: Event) -> str:
    from sevfork.lifecycle.wait import described

    entry = event.entry
    at = datetime.fromtimestamp(entry.wall_ns / 1e9, UTC).isoformat(timespec="milliseconds")
    who = event.name or f"{entry.fork_id.hex()[:8]}/{entry.index}"
    known = entry.returncode is not None
    return f"{at}  {who}  {described(entry.returncode or 0) if known else entry.event.value}"


def _document(event: Event) -> dict[str, object]:
    entry = event.entry
    return {
        "number": entry.number,
        "time_s": entry.wall_ns / 1e9,
        "name": event.name,
        "child": entry.child.hex(),
        "fork_id": entry.fork_id.hex(),
        "index": entry.index,
        "event": entry.event.value,
        **status_and_signal(entry.returncode),
    }
