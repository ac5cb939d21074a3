"""``sevfork ls``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sevfork.cli.options import App, as_json, common

if TYPE_CHECKING:
    from sevfork.lifecycle.inventory import Vm


@click.command()
@click.option("--tree", is_flag=True, help="Show who descends from whom.")
@as_json
@common
def ls(app: App, tree: bool, as_json: bool) -> None:
    """List the VMs that sevfork made: state, technology, parent, published ports."""
    from sevfork.lifecycle import inventory
    from sevfork.lifecycle.endings import with_endings

    hypervisor = app.hypervisor()
    listed = with_endings(hypervisor, inventory.vms(hypervisor.domains()))
    if as_json:
        app.output.json({"vms": [inventory.document(vm) for vm in listed]})
        return
    for vm in listed:
        if vm.unreadable:
            app.output.warn(f"'{vm.domain.name}': {vm.unreadable}")
    drawn = inventory.lines(inventory.forest(listed)) if tree else (("", vm) for vm in listed)
    app.output.table(
        ["NAME", "STATE", "GENERATION", "PARENT", "PORTS", "TECHNOLOGY"],
        [_row(lead, vm) for lead, vm in drawn],
    )


def _row(lead: str, vm: Vm) -> list[str]:
    metadata = vm.metadata
    return [
        lead + vm.domain.name,
        _state(vm),
        str(metadata.generation) if metadata else "?",
        (metadata.parent_name or "-") if metadata else "?",
        ", ".join(f"{port['address']} -> {port['guest']}" for port in vm.ports) or "-",
        metadata.technology.label if metadata else "?",
    ]


def _state(vm: Vm) -> str:
    """Of a warm child also its age, how far it lags behind, and the memory that it holds."""
    from sevfork.lifecycle.inventory import warmth
    from sevfork.lifecycle.wait import described

    warm = warmth(vm.metadata) if vm.metadata else None
    ended = vm.metadata.ended if vm.metadata else None
    if ended is not None:
        return f"{vm.state}, workload {described(ended)}"
    if vm.has_ended:
        return f"{vm.state}, workload ended"
    if warm is None:
        return vm.state
    held_mib = warm["held_bytes"] >> 20
    return f"warm ({warm['age_s']} s, lag {warm['lag_s']} s, holds {held_mib} MiB)"
