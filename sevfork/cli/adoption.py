"""``sevfork owner nonce``, ``request``, ``adopt`` and ``install``: a running root gets its owner.

``adopt VM`` does it all where the owner reaches the host; the others carry it in files.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from sevfork.cli.judging import (
    allow_simulated,
    certificates_option,
    completion_from,
    policy_from,
    timeout_of_a_minute,
    vm_to_ask,
)
from sevfork.cli.options import App, as_json, common
from sevfork.cli.owner_key import owners_key

if TYPE_CHECKING:
    from sevfork.attest.policy import Policy
    from sevfork.attest.verdict import Verdict
    from sevfork.handshake import OwnerCertificate
    from sevfork.owner.documents import AdoptionRequest
    from sevfork.owner.signer import Signer
    from sevfork.verifier.statement import Statement

_Command = TypeVar("_Command", bound=Callable[..., Any])

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_NEW_FILE = click.Path(dir_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True)
class Demands:
    """What evidence has to show."""

    policy_file: BinaryIO
    image: Path | None
    ovmf: Path | None
    certificates: tuple[Path, ...]
    allow_simulated: bool

    def policy(self) -> Policy:
        """With ``--image``, one that takes the launch digests computed from its files only."""
        from sevfork.image.image import Image
        from sevfork.verifier.measure import Firmware, pin_files

        policy = policy_from(self.policy_file, self.allow_simulated)
        if self.image is None:
            return policy
        return pin_files(policy, Image.load(self.image), Firmware(self.ovmf))

    def adopted(self, vm: str, statement: Statement, owner: Signer) -> Adopted:
        """Every check has passed, and the owner has signed."""
        from datetime import UTC, datetime

        from sevfork.handshake import OwnerCertificate, owner_digest
        from sevfork.owner.adoption import checked

        at = datetime.now(UTC)
        verdict = checked(
            statement.completed(completion_from(self.certificates, at)),
            self.policy(),
            at,
            owner_digest(owner.public),
            allow_simulated=self.allow_simulated,
        )
        certificate = OwnerCertificate.issue(owner, statement.status.instance_key)
        return Adopted(vm, certificate, verdict)


@dataclass(frozen=True)
class Adopted:
    """A root, as its operator calls it: its owner's word, and the verdict which that rests on."""

    vm: str
    certificate: OwnerCertificate
    verdict: Verdict


def _demands(command: _Command) -> _Command:
    """Give a verb the options that make Demands."""

    @click.option(
        "--policy",
        "policy_file",
        metavar="F",
        type=click.File("rb"),
        required=True,
        help="What the VM's evidence has to show (TOML).",
    )
    @click.option(
        "--image", metavar="DIR", type=_FOLDER, help="Accept the launch of this image only."
    )
    @click.option(
        "--ovmf", metavar="F", type=_FILE, help="The host's firmware, with --image (SNP)."
    )
    @certificates_option
    @allow_simulated
    @functools.wraps(command)
    def call(*words: Any, **options: Any) -> Any:
        own = {each.name: options.pop(each.name) for each in fields(Demands)}
        return command(*words, demands=Demands(**own), **options)

    return call  # type: ignore[return-value]  # click replaces the signature


@click.command()
@click.option(
    "-o", "--output", metavar="F", type=_NEW_FILE, help="Write it here.  [default: print]"
)
@common
def nonce(app: App, output: Path | None) -> None:
    """A nonce, for whoever is to send an adoption request: it shows how old the evidence is."""
    from sevfork.image.files import write_whole
    from sevfork.owner.nonce import new_nonce

    text = new_nonce().hex()
    if output:
        write_whole(output, f"{text}\n".encode())
    else:
        app.output.data(text)


@click.command()
@click.argument("vm")
@click.option("-o", "--output", metavar="REQUEST", type=_NEW_FILE, required=True)
@click.option(
    "--nonce",
    "nonce_text",
    metavar="HEX|FILE",
    help="The owner's nonce.  [default: one made here, which shows no age]",
)
@timeout_of_a_minute
@common
def request(app: App, vm: str, output: Path, nonce_text: str | None, timeout: float) -> None:
    """For an operator: write a root's evidence into a file, for its owner to adopt it by."""
    from sevfork.owner.documents import AdoptionRequest
    from sevfork.owner.nonce import new_nonce, read_nonce
    from sevfork.verifier.attest import statement_of

    nonce = read_nonce(nonce_text) if nonce_text else new_nonce()
    job, spec = vm_to_ask(app, vm, "be adopted", timeout)
    AdoptionRequest(vm=spec.name, statement=statement_of(job, spec, nonce)).write(output)
    age = "--nonce NONCE" if nonce_text else "--any-age"
    app.output.note(
        f"for the owner: sevfork owner adopt --request {output} {age} --policy FILE -o REPLY"
    )


@click.command()
@click.argument("vm", required=False)
@click.option("--request", "request_file", metavar="REQUEST", type=_FILE, help="In place of a VM.")
@click.option("--nonce", "nonce_text", metavar="HEX|FILE", help="The nonce that REQUEST is for.")
@click.option("--any-age", is_flag=True, help="Take a REQUEST for a nonce that is not yours.")
@click.option("-o", "--output", metavar="REPLY", type=_NEW_FILE, help="The answer to REQUEST.")
@owners_key
@_demands
@timeout_of_a_minute
@as_json
@common
def adopt(
    app: App,
    vm: str | None,
    request_file: Path | None,
    nonce_text: str | None,
    any_age: bool,
    output: Path | None,
    owner: Callable[[], Signer],
    demands: Demands,
    timeout: float,
    as_json: bool,
) -> None:
    """Make a root yours: check what it is, and sign that a family of yours begins with it.

    Its evidence is checked in full on this machine: the policy, the image, and that it was launched
    as a root of yours. Whichever host is asked is a relay only.
    """
    from sevfork.owner.documents import AdoptionReply

    if vm and not (request_file or output or nonce_text or any_age):
        adopted = _through_host(app, vm, owner, demands, timeout)
    elif request_file and output and not vm:
        request = _request(request_file, nonce_text, any_age)
        adopted = demands.adopted(request.vm, request.statement, owner())
        AdoptionReply(vm=adopted.vm, certificate=adopted.certificate.encode()).write(output)
    else:
        raise click.UsageError("want a VM, or --request REQUEST with -o REPLY")
    _tell(app, adopted, as_json)


@click.command()
@click.argument("vm")
@click.option("--reply", metavar="REPLY", type=_FILE, required=True, help="What the owner sent.")
@timeout_of_a_minute
@common
def install(app: App, vm: str, reply: Path, timeout: float) -> None:
    """For an operator: hand a root the certificate that its owner sent."""
    from sevfork.owner.asking import hand_over
    from sevfork.owner.documents import AdoptionReply

    certificate = AdoptionReply.read(reply).certificate
    job, spec = vm_to_ask(app, vm, "be adopted", timeout)
    hand_over(job, spec, certificate)
    app.output.note(f"'{spec.name}' is adopted")


def _through_host(
    app: App, vm: str, owner: Callable[[], Signer], demands: Demands, timeout_s: float
) -> Adopted:
    from sevfork.owner.asking import hand_over
    from sevfork.owner.nonce import new_nonce
    from sevfork.verifier.attest import statement_of

    job, spec = vm_to_ask(app, vm, "be adopted", timeout_s)
    statement = statement_of(job, spec, new_nonce())
    adopted = demands.adopted(spec.name, statement, owner())
    hand_over(job, spec, adopted.certificate.encode())
    return adopted


def _request(path: Path, nonce_text: str | None, any_age: bool) -> AdoptionRequest:
    """What the operator has sent, for the owner's nonce unless its age does not matter."""
    from sevfork.errors import AttestationFailed, InsecureRefused
    from sevfork.owner.documents import AdoptionRequest
    from sevfork.owner.nonce import read_nonce

    request = AdoptionRequest.read(path)
    if nonce_text is None and not any_age:
        raise InsecureRefused(
            "nothing says how old the evidence in this request is",
            hint="give the nonce that it was made for with --nonce, or --any-age",
        )
    if nonce_text is not None and read_nonce(nonce_text) != request.statement.nonce:
        raise AttestationFailed("the request was made for another nonce")
    return request


def _tell(app: App, adopted: Adopted, as_json: bool) -> None:
    technology = adopted.verdict.technology
    if as_json:
        app.output.json(
            {
                "vm": adopted.vm,
                "instance_key": adopted.certificate.root_key.hex(),
                "owner_key": adopted.certificate.owner_key.hex(),
                "technology": technology.value,
                "confidential": technology.confidential,
                "certificate": adopted.certificate.encode().hex(),
            }
        )
        return
    instance = adopted.certificate.root_key.hex()[:16]
    app.output.data(f"adopted '{adopted.vm}', instance {instance}, {technology.label}")
