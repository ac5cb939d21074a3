"""What is being examined, and by what: shared by the steps of a TDX examination."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from sevfork.attest.policy import TdxPolicy
from sevfork.attest.tdx.pck import Platform
from sevfork.attest.tdx.quote import Quote
from sevfork.attest.verdict import Findings
from sevfork.attest.x509 import Chain, Validity


class Subject(Struct, frozen=True):
    """What is being examined: the quote, and the certificates that it carries."""

    quote: Quote
    pck: Chain
    platform: Platform

    @classmethod
    def decode(cls, report: bytes) -> Subject:
        quote = Quote.decode(report)
        pck = Chain.decode("PCK chain", quote.signature.pck_chain_pem)
        return cls(quote, pck, Platform.decode(pck.leaf.extensions))


class Examination(Struct, frozen=True):
    """By what rules, at what time, and where it is written down."""

    roots: tuple[str, ...]
    policy: TdxPolicy
    at: datetime
    findings: Findings

    def valid(self, what: str, validity: Validity) -> None:
        self.findings.valid(f"validity of the {what}", validity, self.at)
