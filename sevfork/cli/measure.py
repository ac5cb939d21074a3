"""``sevfork measure``."""

from __future__ import annotations

from pathlib import Path

import click

from sevfork.cli.options import App, as_json, common

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option(
    "--image",
    metavar="DIR",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The guest image.",
)
@click.option(
    "--tee",
    type=click.Choice(["simulated", "sev-snp"]),
    help="Whose launch digest.  [default: the image's]",
)
@click.option("--vcpus", type=click.IntRange(1, 64), default=2, show_default=True)
@click.option("--ovmf", metavar="F", type=_FILE, help="The firmware (sev-snp).")
@click.option(
    "--cpu-model", metavar="NAME", help="QEMU's name of the CPU (sev-snp), such as EPYC-v4."
)
@click.option(
    "--guest-features",
    metavar="HEX",
    default="0x1",
    show_default=True,
    help="SEV_FEATURES of the VMSA (sev-snp).",
)
@as_json
@common
def measure(
    app: App,
    image: Path,
    tee: str | None,
    vcpus: int,
    ovmf: Path | None,
    cpu_model: str | None,
    guest_features: str,
    as_json: bool,
) -> None:
    """The launch digest that a VM of an image must have, computed from the image's files."""
    from sevfork.image.image import Image
    from sevfork.technology import Technology
    from sevfork.verifier.measure import Firmware, measure_image, parse_guest_features

    loaded = Image.load(image)
    technology = Technology(tee) if tee else loaded.technology
    firmware = Firmware(ovmf, cpu_model, parse_guest_features(guest_features))
    digest = measure_image(loaded, technology, vcpus, firmware)
    if as_json:
        app.output.json({"technology": technology.value, "vcpus": vcpus, "launch_digest": digest})
    else:
        app.output.data(digest)
