"""``sevfork attest``: fresh evidence from a running VM, judged where the command runs."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import msgspec

from sevfork.attest.evidence import Evidence
from sevfork.attest.policy import Policy
from sevfork.attest.verdict import Verdict
from sevfork.domain.spec import GuestSpec
from sevfork.errors import UsageError
from sevfork.handshake import attest_report_data
from sevfork.image.image import Image
from sevfork.lifecycle.agents import greet_agent
from sevfork.lifecycle.job import Job
from sevfork.verifier.verify import verdict_on
from sevfork.wire import protocol

_NONCE_SIZE = 32


@dataclass(frozen=True)
class Attestation:
    """``report_data`` (64 bytes) binds the evidence to our nonce and to what the agent claims.

    The claims are worth as much as the launch that the verdict speaks of: another image's agent
    could claim anything.
    """

    vm: str
    evidence: Evidence
    report_data: bytes
    claims: protocol.Status
    verdict: Verdict


def attest(
    job: Job,
    spec: GuestSpec,
    policy: Policy,
    at: datetime,
    *,
    allow_simulated: bool = False,
    complete: Callable[[Evidence], Evidence] = lambda evidence: evidence,
) -> Attestation:
    """Ask with a fresh nonce and judge the answer; ``complete`` adds certificates it came without.

    Raises WrongState, TimedOut, AttestationFailed for what is no evidence, InsecureRefused.
    """
    nonce = secrets.token_bytes(_NONCE_SIZE)
    with greet_agent(job, spec) as agent:
        attested = agent.ask(protocol.Attest(nonce), protocol.Attested, deadline=job.deadline)
    evidence = complete(Evidence.decode(attested.evidence))
    report_data = attest_report_data(nonce, attested.claims)
    verdict = verdict_on(
        evidence, policy, at, report_data=report_data, allow_simulated=allow_simulated
    )
    claims = protocol.decode_status(attested.claims)
    return Attestation(spec.name, evidence, report_data, claims, verdict)


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
