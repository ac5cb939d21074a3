"""Options of the verbs that judge evidence, and the policy that they judge it by."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from sevfork.cli.options import duration

if TYPE_CHECKING:
    from sevfork.attest.policy import Policy

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
    from sevfork.verifier.policies import decode_policy, default_policy

    if file is not None:
        return decode_policy(file.read())
    return default_policy(simulated_roots() if allow_simulated else ())


def simulated_roots() -> tuple[str, ...]:
    """The root of this host's own simulator, if it has one."""
    from sevfork.simulated.paths import simulator_directory
    from sevfork.simulated.processor import SimulatedProcessor

    directory = simulator_directory(os.environ)
    processor = SimulatedProcessor.load(directory)
    return (processor.root_fingerprint,) if processor else ()
