"""What the verbs that judge evidence share: options, the policy, certificates, the VM to ask."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from sevfork.cli.options import App, duration

if TYPE_CHECKING:
    from datetime import datetime

    from sevfork.attest.policy import Policy
    from sevfork.domain.spec import GuestSpec
    from sevfork.lifecycle.job import Job
    from sevfork.verifier.statement import Complete

policy_option = click.option(
    "--policy",
    "policy_file",
    metavar="F",
    type=click.File("rb"),
    help="What evidence is judged by (TOML).",
)
certificates_option = click.option(
    "--certs",
    "certificates",
    metavar="PATH",
    type=click.Path(exists=True, path_type=Path),
    multiple=True,
    help="A file or folder of certificates, revocation lists, TDX collateral; may be repeated.",
)
allow_simulated = click.option(
    "--allow-simulated", is_flag=True, help="Check simulated evidence, which proves nothing."
)
timeout_of_a_minute = click.option(
    "--timeout", metavar="DURATION", type=duration, default="60s", show_default=True
)


def policy_from(file: BinaryIO | None, allow_simulated: bool) -> Policy:
    from sevfork.verifier.policies import POLICY_LIMIT_BYTES, decode_policy, default_policy

    if file is not None:
        return decode_policy(file.read(POLICY_LIMIT_BYTES))
    return default_policy(simulated_roots() if allow_simulated else ())


def completion_from(certificates: tuple[Path, ...], at: datetime) -> Complete:
    """Adds to evidence what it lacks and these files have, as of then."""
    from sevfork.verifier.certificate_files import certificate_files
    from sevfork.verifier.pool import Pool

    return Pool.read(certificate_files(certificates), at).complete


def vm_to_ask(app: App, vm: str, to_do: str, timeout_s: float) -> tuple[Job, GuestSpec]:
    """A running VM, and a job in which it is handed what its evidence is checked by.

    ``to_do`` is what a VM that does not run cannot do. Raises WrongState, HypervisorUnreachable.
    """
    from sevfork.deadline import Deadline
    from sevfork.lifecycle.find import running_vm
    from sevfork.lifecycle.job import Job

    hypervisor = app.hypervisor()
    _, spec = running_vm(hypervisor, vm, to_do)
    return Job(hypervisor, Deadline.after(timeout_s), gather=app.gather()), spec


def simulated_roots() -> tuple[str, ...]:
    """The root of this host's own simulator, if it has one."""
    from sevfork.simulated.paths import simulator_directory
    from sevfork.simulated.processor import SimulatedProcessor

    directory = simulator_directory(os.environ)
    processor = SimulatedProcessor.load(directory)
    return (processor.root_fingerprint,) if processor else ()
