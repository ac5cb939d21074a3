"""``sevfork guest``: the measured image that guests boot."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sevfork.cli.options import App, as_json, common

if TYPE_CHECKING:
    from sevfork.attest.defaults import Floors
    from sevfork.attest.policy import Revocation
    from sevfork.attest.vendor_facts import TcbLevel
    from sevfork.image.build import Order
    from sevfork.image.oci.reference import Reference
    from sevfork.technology import Technology

TECHNOLOGIES = ("simulated", "sev-snp", "tdx")


@click.group()
def guest() -> None:
    """The measured guest image."""


@guest.command()
@click.option("-o", "--output", metavar="DIR", required=True, type=click.Path(path_type=Path))
@click.option(
    "--workload",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The workload file (TOML); with --oci it completes the image's configuration.",
)
@click.option(
    "--oci",
    metavar="IMAGE",
    help="A container image, as skopeo names it: oci:DIR:TAG, docker-archive:FILE, docker://NAME...",
)
@click.option(
    "--authfile",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What to log in to a registry with, as podman and skopeo have it.",
)
@click.option(
    "--technology", type=click.Choice(TECHNOLOGIES), default="simulated", show_default=True
)
@click.option(
    "--fork",
    type=click.Choice(["owner", "anyone"]),
    help="Who may fork its guests.  [default: anyone when simulated, else owner]",
)
@click.option(
    "--floors",
    metavar="PATH",
    type=click.Path(exists=True, path_type=Path),
    multiple=True,
    help="Today's AMD revocation lists, or Intel collateral: its guests accept nothing older.",
)
@click.option(
    "--crl",
    type=click.Choice(["required", "optional"]),
    help="Whether SNP evidence needs AMD's revocation list.  [default: required with --floors]",
)
@click.option(
    "--alias-check/--no-alias-check",
    default=None,
    help="Whether SNP firmware must have looked for aliased memory (BadRAM).  [default: yes]",
)
@click.option(
    "--tcb",
    type=click.Choice(["required", "newest"]),
    help="SNP firmware and microcode its guests accept: from AMD-SB-3019 on, or the newest known."
    "  [default: required]",
)
@click.option("--locked", is_flag=True, help="Stop when a locked package version cannot be had.")
@click.option("--update-lock", is_flag=True, help="Take the newest packages and lock those.")
@click.option("--refresh", is_flag=True, help="Ask the mirror even when a cached stage would do.")
@click.option("--mirror", metavar="URL", help="Debian mirror.  [env: SEVFORK_DEBIAN_MIRROR]")
@as_json
@common
def build(
    app: App,
    output: Path,
    workload: Path | None,
    oci: str | None,
    authfile: Path | None,
    technology: str,
    fork: str | None,
    floors: tuple[Path, ...],
    crl: Revocation | None,
    alias_check: bool | None,
    tcb: TcbLevel | None,
    locked: bool,
    update_lock: bool,
    refresh: bool,
    mirror: str | None,
    as_json: bool,
) -> None:
    """Build the image that a workload's guests boot into DIR; nothing to do when it is there."""
    _at_most_one(locked=locked, update_lock=update_lock)
    _require_workload(workload, oci, authfile)
    order = replace(
        _order(output, workload, technology, fork, mirror),
        locked=locked,
        update_lock=update_lock,
        refresh=refresh,
        container=_container(oci),
        authfile=authfile,
    )
    floored = _floors(order.technology, floors, crl, alias_check, tcb)
    _build(app, replace(order, floors=floored), as_json)


def _order(
    output: Path, workload: Path | None, technology: str, fork: str | None, mirror: str | None
) -> Order:
    from sevfork.image import build as building
    from sevfork.image import paths
    from sevfork.image.recipe import recipe_directory
    from sevfork.simulated.paths import simulator_directory
    from sevfork.technology import Technology

    chosen = Technology(technology)
    return building.Order(
        output=output,
        workload=workload,
        technology=chosen,
        fork=building.default_fork(chosen, fork),
        firmware=recipe_directory(),
        cache=paths.cache_directory(os.environ),
        mirror=mirror or paths.mirror(os.environ),
        simulator=simulator_directory(os.environ),
    )


def _container(oci: str | None) -> Reference | None:
    from sevfork.image.oci.reference import Reference

    return None if oci is None else Reference.parse(oci)


def _at_most_one(*, locked: bool, update_lock: bool) -> None:
    from sevfork.errors import UsageError

    if locked and update_lock:
        raise UsageError("'--locked' and '--update-lock' exclude each other")


def _require_workload(workload: Path | None, oci: str | None, authfile: Path | None) -> None:
    from sevfork.errors import UsageError

    if workload is None and oci is None:
        raise UsageError("say what the guest runs: '--workload FILE', '--oci IMAGE' or both")
    if authfile is not None and oci is None:
        raise UsageError("'--authfile' is for '--oci'")


def _floors(
    technology: Technology,
    paths: tuple[Path, ...],
    crl: Revocation | None,
    alias: bool | None,
    tcb: TcbLevel | None,
) -> Floors | None:
    from sevfork.verifier.certificate_files import certificate_files
    from sevfork.verifier.floors import floors_for

    files, now = certificate_files(paths), datetime.now(UTC)
    return floors_for(technology, files, now, crl=crl, alias_check=alias, tcb=tcb)


def _build(app: App, order: Order, as_json: bool) -> None:
    from sevfork.image import build as building

    started = time.monotonic()

    def say(text: str) -> None:
        app.output.note(f"[{time.monotonic() - started:5.1f} s] {text}")

    built = building.build(order, say)
    say(f"built '{order.output}'" if built else f"'{order.output}' is up to date")
    if as_json:
        app.output.json(_summary(order.output, built))


def _summary(output: Path, built: bool) -> dict[str, object]:
    from sevfork.image import manifest_json

    manifest = manifest_json.read(output).builtins()
    keys = ("name", "technology", "root_hash", "launch_digests", "policy_digest", "moved")
    return {"image": str(output), "built": built} | {k: manifest[k] for k in keys}
