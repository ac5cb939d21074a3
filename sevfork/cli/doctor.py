"""``sevfork doctor``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from sevfork.cli.options import App, as_json, common

if TYPE_CHECKING:
    from sevfork.lifecycle.doctor import Report

_EXIT_CANNOT = 13


@click.command()
@click.option(
    "--stop-libvirtd",
    is_flag=True,
    help="End the libvirtd that sevfork started for itself; VMs go on running.",
)
@as_json
@common
def doctor(app: App, stop_libvirtd: bool, as_json: bool) -> None:
    """Say what this host can do, what is missing, and how to get it."""
    from sevfork.lifecycle.doctor import examine

    if stop_libvirtd:
        _stop(app, as_json)
        return
    report = examine(app.hypervisor)
    _print(app, report, as_json)
    if not report.runs_guests:
        click.get_current_context().exit(_EXIT_CANNOT)


def _stop(app: App, as_json: bool) -> None:
    from sevfork.host import private_libvirtd

    stopped = private_libvirtd.stop(private_libvirtd.Layout.of(os.environ))
    if as_json:
        app.output.json({"stopped": stopped})
    else:
        app.output.note("stopped" if stopped else "no private libvirtd is running")


def _print(app: App, report: Report, as_json: bool) -> None:
    if as_json:
        findings = [
            {
                "subject": each.subject,
                "verdict": each.verdict.value,
                "found": each.found,
                "remedy": each.remedy,
            }
            for each in report.findings
        ]
        technologies = [each.value for each in report.technologies]
        app.output.json(
            {
                "runs_guests": report.runs_guests,
                "technologies": technologies,
                "firmware": {each.value: path for each, path in report.firmware.items()},
                "findings": findings,
            }
        )
        return
    rows = [[each.subject, each.verdict.value, each.found] for each in report.findings]
    app.output.table(["SUBJECT", "VERDICT", "FOUND"], rows)
    for each in report.findings:
        if each.remedy:
            app.output.data(f"{each.subject}: {each.remedy}")
