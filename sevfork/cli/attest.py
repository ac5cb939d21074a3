"""``sevfork attest``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from sevfork.cli import lineage
from sevfork.cli.judging import (
    allow_simulated,
    certificates_option,
    completion_from,
    policy_from,
    policy_option,
    timeout_of_a_minute,
    vm_to_ask,
)
from sevfork.cli.options import App, as_json, common, owner_key

if TYPE_CHECKING:
    from sevfork.attest.policy import Policy
    from sevfork.domain.spec import GuestSpec
    from sevfork.lifecycle.job import Job
    from sevfork.owner.descent import Descent
    from sevfork.verifier.attest import Attestation

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("vm")
@policy_option
@click.option(
    "--image",
    "image_folder",
    metavar="DIR",
    type=_FOLDER,
    help="Accept only this image's launch digest.",
)
@certificates_option
@click.option(
    "--owner",
    metavar="PUB",
    type=owner_key,
    help="Check too that it descends from this owner's root.",
)
@click.option(
    "--save",
    metavar="F",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep the evidence, for 'sevfork verify'.",
)
@allow_simulated
@timeout_of_a_minute
@as_json
@common
def attest(
    app: App,
    vm: str,
    policy_file: BinaryIO | None,
    image_folder: Path | None,
    certificates: tuple[Path, ...],
    owner: bytes | None,
    save: Path | None,
    allow_simulated: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Ask the running VM for fresh evidence and check it on this machine.

    Exits with 0 if every check passed, and with 20 if any failed.
    """
    from datetime import UTC, datetime

    from sevfork.verifier import attest

    job, spec = vm_to_ask(app, vm, "attest", timeout)
    policy = _pinned(policy_from(policy_file, allow_simulated), image_folder, spec)
    at = datetime.now(UTC)
    attested = attest.attest(
        job,
        spec,
        policy,
        at,
        allow_simulated=allow_simulated,
        complete=completion_from(certificates, at),
    )
    if save:
        from sevfork.image.files import write_whole

        write_whole(save, attested.statement.evidence)
    _tell(app, attested, _descent(job, spec, attested, owner), as_json)


def _pinned(policy: Policy, image_folder: Path | None, spec: GuestSpec) -> Policy:
    """The policy that wants this image and no other, where one is named."""
    from sevfork.image.image import Image
    from sevfork.verifier.attest import pin_image

    return pin_image(policy, Image.load(image_folder), spec.vcpus) if image_folder else policy


def _descent(
    job: Job, spec: GuestSpec, attested: Attestation, owner: bytes | None
) -> Descent | None:
    """Whom the VM that was attested descends from, where that was asked."""
    if owner is None or not attested.verdict.passed:
        return None
    from sevfork.owner.asking import encoded_lineage
    from sevfork.owner.descent import of_attested

    return of_attested(attested, encoded_lineage(job, spec), owner)


def _tell(app: App, attested: Attestation, descent: Descent | None, as_json: bool) -> None:
    """Print the verdict, and raise one that is not good."""
    from sevfork.verifier.render import rejection

    _print(app, attested, descent, as_json)
    if not attested.verdict.passed:
        raise rejection(attested.verdict)


def _print(app: App, attested: Attestation, descent: Descent | None, as_json: bool) -> None:
    from sevfork.verifier import render

    claims = _claims(attested)
    if as_json:
        document = render.verdict_as_json(attested.verdict)
        asked = {"vm": attested.vm, "report_data": attested.statement.report_data.hex()}
        found = {"lineage": lineage.document(descent) if descent else None}
        app.output.json(document | asked | {"claims": claims} | found)
        return
    app.output.data(
        *render.verdict_as_lines(attested.verdict),
        "",
        f"what the agent of '{attested.vm}' claims, worth as much as the launch above:",
        *(f"  {name}: {value}" for name, value in claims.items()),
    )
    if descent:
        app.output.data("", "whom it descends from:")
        app.output.chain(lineage.lines(descent))


def _claims(attested: Attestation) -> dict[str, object]:
    claims = attested.statement.status
    return {
        "version": claims.version,
        "role": claims.role or "none yet",
        "generation": claims.generation,
        "phase": claims.phase.value,
        "workload": claims.workload,
        "instance_key": claims.instance_key.hex(),
        "policy_digest": claims.policy_digest.hex(),
        "fork": claims.fork_policy,
        "logs": claims.logs,
        "exec": claims.exec_policy,
    }
