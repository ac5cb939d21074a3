"""``sevfork attest``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from sevfork.cli.options import App, as_json, common, duration
from sevfork.cli.verify import CERTIFICATES, policy_from

if TYPE_CHECKING:
    from sevfork.attest.policy import Policy
    from sevfork.domain.spec import GuestSpec
    from sevfork.verifier.attest import Attestation

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("vm")
@click.option(
    "--policy", "policy_file", metavar="F", type=click.File("rb"), help="The policy (TOML)."
)
@click.option(
    "--image",
    "image_folder",
    metavar="DIR",
    type=_FOLDER,
    help="Accept only this image's launch digest.",
)
@click.option(
    "--certs",
    "certificates",
    metavar="PATH",
    type=CERTIFICATES,
    multiple=True,
    help="A file or folder of certificates, revocation lists, TDX collateral; may be given again.",
)
@click.option(
    "--save",
    metavar="F",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep the evidence, for 'sevfork verify'.",
)
@click.option(
    "--allow-simulated", is_flag=True, help="Check simulated evidence, which proves nothing."
)
@click.option("--timeout", metavar="DURATION", type=duration, default="60s", show_default=True)
@as_json
@common
def attest(
    app: App,
    vm: str,
    policy_file: BinaryIO | None,
    image_folder: Path | None,
    certificates: tuple[Path, ...],
    save: Path | None,
    allow_simulated: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Ask the running VM for fresh evidence and check it on this machine.

    Exits with 0 if every check passed, and with 20 if any failed.
    """
    from datetime import UTC, datetime

    from sevfork.deadline import Deadline
    from sevfork.lifecycle.find import running_vm
    from sevfork.lifecycle.job import Job
    from sevfork.verifier import attest
    from sevfork.verifier.certificate_files import certificate_files
    from sevfork.verifier.pool import Pool

    hypervisor = app.hypervisor()
    _, spec = running_vm(hypervisor, vm, "attest")
    policy = _pinned(policy_from(policy_file, allow_simulated), image_folder, spec)
    at = datetime.now(UTC)
    attested = attest.attest(
        Job(hypervisor, Deadline.after(timeout)),
        spec,
        policy,
        at,
        allow_simulated=allow_simulated,
        complete=Pool.read(certificate_files(certificates), at).complete,
    )
    if save:
        save.write_bytes(attested.evidence.encode())
    _tell(app, attested, as_json)


def _pinned(policy: Policy, image_folder: Path | None, spec: GuestSpec) -> Policy:
    """The policy that wants this image and no other, where one is named."""
    from sevfork.image.image import Image
    from sevfork.verifier.attest import pin_image

    return pin_image(policy, Image.load(image_folder), spec.vcpus) if image_folder else policy


def _tell(app: App, attested: Attestation, as_json: bool) -> None:
    """Print the verdict, and raise one that is not good."""
    from sevfork.verifier.render import rejection

    _print(app, attested, as_json)
    if not attested.verdict.passed:
        raise rejection(attested.verdict)


def _print(app: App, attested: Attestation, as_json: bool) -> None:
    from sevfork.verifier import render

    claims = _claims(attested)
    if as_json:
        document = render.verdict_as_json(attested.verdict)
        report_data = {"vm": attested.vm, "report_data": attested.report_data.hex()}
        app.output.json(document | report_data | {"claims": claims})
        return
    app.output.data(
        *render.verdict_as_lines(attested.verdict),
        "",
        f"what the agent of '{attested.vm}' claims, worth as much as the launch above:",
        *(f"  {name}: {value}" for name, value in claims.items()),
    )


def _claims(attested: Attestation) -> dict[str, object]:
    claims = attested.claims
    return {
        "version": claims.version,
        "role": claims.role or "none yet",
        "generation": claims.generation,
        "phase": claims.phase.value,
        "workload": claims.workload,
        "instance_key": claims.instance_key.hex(),
        "policy_digest": claims.policy_digest.hex(),
        "fork": claims.fork_policy,
    }
