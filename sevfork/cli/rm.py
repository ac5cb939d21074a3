"""``sevfork rm``."""

from __future__ import annotations

import click

from sevfork.cli.options import App, as_json, common, recorded

# For the parents of what is removed to be told; then it is removed all the same.
_FAREWELL_S = 10.0


@click.command()
@click.argument("vms", metavar="VM...", nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Say what would be removed and change nothing.")
@as_json
@common
@recorded("vms")
def rm(app: App, vms: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Remove VMs and everything that sevfork made for them. Children outlive their parent."""
    from sevfork.deadline import Deadline
    from sevfork.lifecycle.farewell import take_leave
    from sevfork.lifecycle.job import Job
    from sevfork.lifecycle.remove import plan_remove, remove

    hypervisor = app.hypervisor()
    domains = plan_remove(hypervisor, vms)
    if not dry_run:
        with app.output.watching() as watch:
            take_leave(Job(hypervisor, Deadline.after(_FAREWELL_S)), domains, app.output.note)
            remove(hypervisor, domains, watch)
    if as_json:
        names = [{"name": domain.name, "uuid": domain.uuid} for domain in domains]
        app.output.json({"dry_run": dry_run, "removed": [] if dry_run else names, "vms": names})
    elif dry_run:
        for domain in domains:
            app.output.data(f"would remove '{domain.name}'")
