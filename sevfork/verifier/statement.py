"""What a VM says of itself, with evidence that binds it: judged on any machine, now or later."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from sevfork.attest.evidence import Evidence
from sevfork.attest.policy import Policy
from sevfork.attest.verdict import Verdict
from sevfork.handshake import attest_report_data
from sevfork.verifier.verify import verdict_on
from sevfork.wire import protocol

_LIMIT_BYTES = 128 * 1024

Complete = Callable[[Evidence], Evidence]
"""Adds certificates that evidence came without."""


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer to ``Attest(nonce)``: evidence over the nonce and over what the agent claims.

    The claims are worth as much as the launch that the evidence speaks of: another image's agent
    could claim anything.
    """

    nonce: Annotated[bytes, Meta(min_length=16, max_length=64)]
    claims: Annotated[bytes, Meta(max_length=_LIMIT_BYTES)]
    evidence: Annotated[bytes, Meta(max_length=_LIMIT_BYTES)]

    @property
    def status(self) -> protocol.Status:
        """The claims; raises NotAuthentic for what is none."""
        return protocol.decode_status(self.claims)

    @property
    def report_data(self) -> bytes:
        """The 64 bytes that the hardware must have signed."""
        return attest_report_data(self.nonce, self.claims)

    def completed(self, complete: Complete) -> Statement:
        evidence = complete(Evidence.decode(self.evidence)).encode()
        return msgspec.structs.replace(self, evidence=evidence)

    def judged(self, policy: Policy, at: datetime, *, allow_simulated: bool = False) -> Verdict:
        """What its evidence is worth, and whether the VM was launched as it claims.

        Raises AttestationFailed for what is no evidence, NotAuthentic, InsecureRefused.
        """
        return verdict_on(
            Evidence.decode(self.evidence),
            policy,
            at,
            report_data=self.report_data,
            launch_config=self.status.launch_config or None,
            allow_simulated=allow_simulated,
        )


def as_it_came(evidence: Evidence) -> Evidence:
    """Nothing is added."""
    return evidence
