"""``sevfork up``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from sevfork.cli.options import (
    App,
    as_json,
    common,
    duration,
    memory_size,
    owner_key,
    published_port,
    recorded,
)

if TYPE_CHECKING:
    from sevfork.host.hypervisor import Hypervisor
    from sevfork.lifecycle.ports import PortWish
    from sevfork.lifecycle.restart import RestartPlan
    from sevfork.lifecycle.up import UpOutcome, UpPlan, UpRequest


# Characters; libvirt takes no more either.
_LONGEST_XML = 10 * 2**20


@click.command()
@click.argument("name")
@click.option(
    "--image",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="The guest image, as 'sevfork guest build -o DIR' made it.  [default: that of a VM NAME "
    "which has ended, and is started anew as it was edited]",
)
@click.option(
    "--publish",
    metavar="[[ADDRESS:]HOST:]GUEST[/udp]",
    multiple=True,
    type=published_port,
    help="Make the guest's port reachable at ADDRESS (127.0.0.1) of the libvirt host; repeatable.",
)
@click.option(
    "--memory", metavar="SIZE", type=memory_size, help="[default: 1G, or what --xml says]"
)
@click.option(
    "--xml",
    metavar="FILE",
    type=click.File(),
    help="Begin with a libvirt domain of your own, and add what a fork needs; '-' is stdin.",
)
@click.option(
    "--vcpus",
    type=click.IntRange(1, 64),
    help="[default: 2 with KVM, 1 in software emulation]",
)
@click.option(
    "--owner",
    metavar="PUB",
    type=owner_key,
    help="Its owner's public key: a file, or the text of one (ssh-ed25519 or PEM).",
)
@click.option("--timeout", metavar="DURATION", type=duration, default="300s", show_default=True)
@click.option("--replace", is_flag=True, help="Remove a VM of that name first.")
@click.option(
    "--virt-type",
    type=click.Choice(["auto", "kvm", "qemu"]),
    default="auto",
    show_default=True,
    help="KVM, or software emulation; auto takes KVM when it really runs the image.",
)
@click.option("--print-xml", is_flag=True, help="Print the domain's XML and change nothing.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and change nothing.")
@as_json
@common
@recorded("name")
def up(
    app: App,
    name: str,
    image: Path | None,
    publish: tuple[PortWish, ...],
    memory: int | None,
    xml: TextIO | None,
    vcpus: int | None,
    owner: bytes | None,
    timeout: float,
    replace: bool,
    virt_type: str,
    print_xml: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Define and start a fork-ready VM called NAME, and wait until its workload is ready."""
    from sevfork.domain.child import without_passwords
    from sevfork.lifecycle.restart import plan_restart
    from sevfork.lifecycle.up import plan_up

    request = _request(name, image, publish, memory, xml, vcpus, owner, virt_type, replace=replace)
    hypervisor = app.hypervisor(change_nothing=dry_run or print_xml)
    plan = plan_up(hypervisor, request) if request else plan_restart(hypervisor, name, publish)
    if print_xml:
        app.output.text(without_passwords(plan.xml(plan.spec)))
    elif dry_run:
        _print_plan(app, plan, as_json)
    else:
        _run(app, hypervisor, plan, timeout, as_json)


def _request(
    name: str,
    image: Path | None,
    publish: tuple[PortWish, ...],
    memory: int | None,
    xml: TextIO | None,
    vcpus: int | None,
    owner: bytes | None,
    virt_type: str,
    *,
    replace: bool,
) -> UpRequest | None:
    """For a new VM; None where one that has ended is meant. Raises UsageError."""
    from sevfork.domain.spec import Accelerator
    from sevfork.errors import UsageError
    from sevfork.image.image import Image
    from sevfork.lifecycle.up import DEFAULT_MEMORY_MIB, UpRequest, with_template

    if image is None:
        if any((memory, xml, vcpus, owner, replace, virt_type != "auto")):
            raise UsageError("a new VM needs --image", hint="see 'sevfork guest build'")
        return None
    request = UpRequest(
        name=name,
        image=Image.load(image),
        memory_mib=memory or DEFAULT_MEMORY_MIB,
        vcpus=vcpus,
        publish=publish,
        replace=replace,
        accelerator=None if virt_type == "auto" else Accelerator(virt_type),
        owner=owner,
    )
    return request if xml is None else with_template(request, memory, xml.read(_LONGEST_XML))


def _run(
    app: App,
    hypervisor: Hypervisor,
    plan: UpPlan | RestartPlan,
    timeout_s: float,
    as_json: bool,
) -> None:
    from sevfork.deadline import Deadline
    from sevfork.lifecycle.job import Job
    from sevfork.lifecycle.restart import run_restart
    from sevfork.lifecycle.up import UpPlan, run_up

    with app.output.watching() as watch:
        job = Job(hypervisor, Deadline.after(timeout_s), watch, gather=app.gather())
        outcome = run_up(job, plan) if isinstance(plan, UpPlan) else run_restart(job, plan)
    _print_outcome(app, hypervisor, outcome, as_json)


def _print_plan(app: App, plan: UpPlan | RestartPlan, as_json: bool) -> None:
    spec = plan.spec
    replaced = plan.replaced.name if plan.replaced else None
    if as_json:
        app.output.json(
            {
                "dry_run": True,
                "name": spec.name,
                "image": spec.metadata.image,
                "technology": spec.metadata.technology.value,
                "memory_mib": spec.memory_mib,
                "vcpus": spec.vcpus,
                "replaces": replaced,
            }
        )
        return
    if replaced:
        app.output.data(f"would remove '{replaced}'")
    app.output.data(
        f"would start '{spec.name}': image '{spec.metadata.image}', {spec.memory_mib} MiB, "
        f"{spec.vcpus} vCPUs, {spec.metadata.technology.label}"
    )


def _print_outcome(app: App, hypervisor: Hypervisor, outcome: UpOutcome, as_json: bool) -> None:
    from sevfork.lifecycle.inventory import document, vms

    spec = outcome.spec
    if as_json:
        (vm,) = vms([hypervisor.find(spec.uuid)])
        app.output.json(
            {
                "vm": document(vm),
                "accelerator": spec.accelerator.value,
                "accelerator_label": spec.accelerator.label,
                "boot_s": round(outcome.boot_s, 2),
                "ready_s": round(outcome.ready_s, 2),
            }
        )
        return
    if spec.metadata.owner:
        app.output.note(f"to be run by its owner: sevfork owner adopt {spec.name} --policy FILE")
    addresses = ", ".join(map(str, spec.metadata.ports))
    app.output.table(
        ["NAME", "ADDRESS", "READY AFTER", "TECHNOLOGY", "RUNS ON"],
        [
            [
                spec.name,
                addresses or "-",
                f"{outcome.ready_s:.1f} s",
                spec.metadata.technology.label,
                spec.accelerator.label,
            ]
        ],
    )
