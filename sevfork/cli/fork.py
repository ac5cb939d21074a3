"""``sevfork fork``."""

from __future__ import annotations

import uuid as uuids
from typing import TYPE_CHECKING

import click

from sevfork.cli.options import (
    App,
    as_json,
    common,
    duration,
    owners_token,
    published_port,
    recorded,
)
from sevfork.cli.output import error_document
from sevfork.wire.protocol import MAX_CHILDREN

if TYPE_CHECKING:
    from sevfork.domain.child import PlannedDevice
    from sevfork.host.hypervisor import Hypervisor
    from sevfork.lifecycle.fork import ForkedChild, ForkOutcome, ForkPlan
    from sevfork.lifecycle.ports import PortWish


_COLUMNS = ("CHILD", "ADDRESS", "PARENT'S PAUSE", "READY AFTER", "WAS", "TECHNOLOGY")


@click.command()
@click.argument("vm")
@click.option(
    "-n",
    "--count",
    type=click.IntRange(1, MAX_CHILDREN),
    default=1,
    show_default=True,
    help="How many children; the parent is captured once.",
)
@click.option("--name", metavar="NAME", help="The children: NAME, NAME1, ...  [default: VM-fork]")
@click.option(
    "--publish",
    metavar="[[ADDRESS:]HOST:]GUEST[/udp]",
    multiple=True,
    type=published_port,
    help="A guest port to publish; may be repeated.  [default: the parent's, on free host ports]",
)
@click.option("--replace", is_flag=True, help="Remove VMs that have a child's name first.")
@owners_token
@click.option("--cold", is_flag=True, help="Launch every child, and take none from a pool.")
@click.option(
    "--keep-going/--all-or-nothing",
    default=True,
    show_default=True,
    help="Where a child fails, keep the others, or remove them too.",
)
@click.option("--timeout", metavar="DURATION", type=duration, default="300s", show_default=True)
@click.option("--print-xml", is_flag=True, help="Print the children's domain XML, start nothing.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and change nothing.")
@as_json
@common
@recorded("vm")
def fork(
    app: App,
    vm: str,
    count: int,
    name: str | None,
    publish: tuple[PortWish, ...],
    replace: bool,
    token: bytes | None,
    cold: bool,
    keep_going: bool,
    timeout: float,
    print_xml: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Fork the running VM (a name, id or UUID) into COUNT children, which run on by themselves."""
    from sevfork.lifecycle.fork import ForkRequest, plan_fork

    request = ForkRequest(
        parent=vm,
        count=count,
        name=name,
        replace=replace,
        publish=publish or None,
        token=token,
        cold=cold,
        all_or_nothing=not keep_going,
    )
    hypervisor = app.hypervisor(change_nothing=dry_run or print_xml)
    plan = plan_fork(hypervisor, request)
    if print_xml:
        _print_xml(app, plan)
    elif dry_run:
        _print_plan(app, plan, as_json)
    else:
        _run(app, hypervisor, plan, timeout, as_json)


def _run(app: App, hypervisor: Hypervisor, plan: ForkPlan, timeout: float, as_json: bool) -> None:
    from sevfork.deadline import Deadline
    from sevfork.lifecycle.fork import run_fork
    from sevfork.lifecycle.job import Job

    with app.output.watching() as watch:
        job = Job(hypervisor, Deadline.after(timeout), watch, gather=app.gather())
        outcome = run_fork(job, plan)
    _print_outcome(app, hypervisor, outcome, as_json)
    _fail_for(outcome)


def _print_xml(app: App, plan: ForkPlan) -> None:
    from sevfork.domain.child import child_xml, without_passwords
    from sevfork.lifecycle.fork import sketch_child

    for name in plan.names:
        sketch = sketch_child(plan, name, str(uuids.uuid4()))
        app.output.text(without_passwords(child_xml(plan.xml, sketch)))


def _print_plan(app: App, plan: ForkPlan, as_json: bool) -> None:
    from sevfork.domain.child import planned_devices

    replaced = [domain.name for domain in plan.replaced]
    devices = planned_devices(plan.xml)
    if as_json:
        app.output.json(
            {
                "dry_run": True,
                "parent": plan.domain.name,
                "children": list(plan.names),
                "memory_mib": plan.spec.memory_mib,
                "vcpus": plan.spec.vcpus,
                "replaces": replaced,
                "devices": [_device_document(each) for each in devices],
            }
        )
        return
    for name in replaced:
        app.output.data(f"would remove '{name}'")
    for name in plan.names:
        app.output.data(
            f"would fork '{plan.domain.name}' into '{name}': {plan.spec.memory_mib} MiB, "
            f"{plan.spec.vcpus} vCPUs, {plan.spec.metadata.technology.label}"
        )
    app.output.table(
        ("DEVICE", "NAME", "PLAN", "WHY"),
        [[each.kind, each.name or "-", each.plan.value, each.reason] for each in devices],
    )


def _device_document(device: PlannedDevice) -> dict[str, str]:
    names = {"device": device.kind, "name": device.name}
    return names | {"plan": device.plan.value, "reason": device.reason}


def _print_outcome(app: App, hypervisor: Hypervisor, outcome: ForkOutcome, as_json: bool) -> None:
    if as_json:
        app.output.json(_document(hypervisor, outcome))
        return
    rows = [_row(child, outcome) for child in outcome.children]
    app.output.table(_COLUMNS, rows)
    app.output.note(
        f"forked '{outcome.parent}': {outcome.state_bytes / 2**20:.0f} MiB of state, captured in "
        f"{outcome.capture_s:.1f} s; {outcome.accelerator.label}"
    )


def _row(child: ForkedChild, outcome: ForkOutcome) -> list[str]:
    if child.error:
        return [child.name, "-", "-", "failed", "-", child.error.message]
    addresses = ", ".join(map(str, child.ports))
    pause, ready = f"{outcome.pause_ms:.0f} ms", f"{child.ready_s:.1f} s"
    was = "warm" if child.warm else "cold"
    return [child.name, addresses or "-", pause, ready, was, outcome.technology.label]


def _document(hypervisor: Hypervisor, outcome: ForkOutcome) -> dict[str, object]:
    return {
        "parent": outcome.parent,
        "parent_uuid": outcome.parent_uuid,
        "fork_id": outcome.fork_id,
        "technology": outcome.technology.value,
        "technology_label": outcome.technology.label,
        "confidential": outcome.technology.confidential,
        "accelerator": outcome.accelerator.value,
        "accelerator_label": outcome.accelerator.label,
        "pause_ms": round(outcome.pause_ms, 1),
        "capture_s": round(outcome.capture_s, 2),
        "state_bytes": outcome.state_bytes,
        "sealed_bytes": outcome.sealed_bytes,
        "children": [_child_document(hypervisor, child) for child in outcome.children],
    }


def _child_document(hypervisor: Hypervisor, child: ForkedChild) -> dict[str, object]:
    from sevfork.lifecycle.inventory import document, vms

    if child.error:
        return {"name": child.name, "error": error_document(child.error)}
    (vm,) = vms([hypervisor.find(child.uuid)])
    times = {"ready_s": round(child.ready_s, 2), "restore_ms": round(child.restore_ms, 1)}
    return document(vm) | times | {"was_warm": child.warm, "error": None}


def _fail_for(outcome: ForkOutcome) -> None:
    """The exit code of a fork of which some children failed is that of the first failure."""
    for child in outcome.children:
        if child.error:
            raise child.error
