"""``sevfork attest``: fresh evidence from a running VM, judged where the command runs."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime

import msgspec

from sevfork.attest.policy import Policy
from sevfork.attest.verdict import Verdict
from sevfork.domain.spec import GuestSpec
from sevfork.errors import UsageError
from sevfork.image.image import Image
from sevfork.lifecycle.agents import greet_agent
from sevfork.lifecycle.endorsing import endorse
from sevfork.lifecycle.job import Job
from sevfork.verifier.statement import Complete, Statement, as_it_came
from sevfork.wire import protocol

NONCE_SIZE = 32


@dataclass(frozen=True)
class Attestation:
    """What a VM said to a nonce of ours, and what its evidence is worth."""

    vm: str
    statement: Statement
    verdict: Verdict


def statement_of(job: Job, spec: GuestSpec, nonce: bytes) -> Statement:
    """Ask the VM for evidence, having handed it what that is checked by.

    Raises WrongState, TimedOut, AttestationFailed for a report that cannot be read.
    """
    with greet_agent(job, spec) as agent:
        endorse(job, spec, agent)
        attested = agent.ask(protocol.Attest(nonce), protocol.Attested, deadline=job.deadline)
    return Statement(nonce, attested.claims, attested.evidence)


def attest(
    job: Job,
    spec: GuestSpec,
    policy: Policy,
    at: datetime,
    *,
    allow_simulated: bool = False,
    complete: Complete = as_it_came,
) -> Attestation:
    """Ask with a fresh nonce and judge the answer; ``complete`` adds certificates it came without.

    Raises WrongState, TimedOut, AttestationFailed for what is no evidence, InsecureRefused.
    """
    statement = statement_of(job, spec, secrets.token_bytes(NONCE_SIZE)).completed(complete)
    verdict = statement.judged(policy, at, allow_simulated=allow_simulated)
    return Attestation(spec.name, statement, verdict)


def pin_image(policy: Policy, image: Image, vcpus: int) -> Policy:
    """The policy, accepting the launch digest that the image's manifest expects and no other."""
    digest = image.launch_digests.get(vcpus)
    if policy.snp is None or digest is None:
        raise UsageError(
            f"the image's manifest has no launch digest for {vcpus} vCPUs",
            hint="'sevfork measure' computes one; put it into a --policy",
        )
    snp = msgspec.structs.replace(policy.snp, measurements=(digest,))
    return msgspec.structs.replace(policy, snp=snp)
