"""``sevfork verify``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from sevfork.cli.judging import (
    allow_simulated,
    certificates_option,
    completion_from,
    policy_from,
    policy_option,
)
from sevfork.cli.options import App, as_json, common

if TYPE_CHECKING:
    from datetime import datetime

    from sevfork.attest.evidence import Evidence
    from sevfork.attest.verdict import Verdict


@click.command()
@click.argument("file", type=click.File("rb"), required=False)
@policy_option
@certificates_option
@click.option("--fetch", is_flag=True, help="Get what is missing from AMD or Intel, and keep it.")
@click.option("--at", "at_text", metavar="TIME", help="The time to judge at.  [default: now]")
@click.option("--report-data", metavar="HEX", help="The 64 bytes that make the evidence fresh.")
@allow_simulated
@click.option("--explain", is_flag=True, help="Say what a passing verdict does not prove.")
@as_json
@common
def verify(
    app: App,
    file: BinaryIO | None,
    policy_file: BinaryIO | None,
    certificates: tuple[Path, ...],
    fetch: bool,
    at_text: str | None,
    report_data: str | None,
    allow_simulated: bool,
    explain: bool,
    as_json: bool,
) -> None:
    """Check evidence: an SNP report or a TDX quote, raw or in hexadecimal, or what attest saved.

    Exits with 0 if every check passed, and with 20 if any failed.
    """
    from datetime import UTC, datetime

    from sevfork.verifier.verify import parse_report_data, parse_time, verdict_on

    if file is None:
        _explain(app, explain)
        return
    at = parse_time(at_text) if at_text else datetime.now(UTC)
    expected = parse_report_data(report_data) if report_data else None
    verdict = verdict_on(
        _evidence(file, certificates, at, fetch),
        policy_from(policy_file, allow_simulated),
        at,
        report_data=expected,
        allow_simulated=allow_simulated,
    )
    _tell(app, verdict, explain, as_json)


def _explain(app: App, explain: bool) -> None:
    from sevfork.errors import UsageError
    from sevfork.verifier.render import EXPLANATION

    if not explain:
        raise UsageError("want a FILE with evidence, or --explain")
    app.output.text(EXPLANATION)


def _tell(app: App, verdict: Verdict, explain: bool, as_json: bool) -> None:
    """Print the verdict, and raise one that is not good."""
    from sevfork.verifier import render

    if as_json:
        app.output.json(render.verdict_as_json(verdict))
    else:
        app.output.data(*render.verdict_as_lines(verdict))
        if explain:
            app.output.text(f"\n{render.EXPLANATION}")
    if not verdict.passed:
        raise render.rejection(verdict)


def _evidence(
    file: BinaryIO, certificates: tuple[Path, ...], at: datetime, fetch: bool
) -> Evidence:
    from sevfork.verifier.recognise import EVIDENCE_LIMIT_BYTES, recognise

    evidence = recognise(file.read(EVIDENCE_LIMIT_BYTES))
    evidence = completion_from(certificates, at)(evidence)
    return _fetched(evidence) if fetch else evidence


def _fetched(evidence: Evidence) -> Evidence:
    from sevfork.verifier import http
    from sevfork.verifier.sources import Sources

    return Sources.of(os.environ, fetcher=http.http_fetcher).complete(evidence)
