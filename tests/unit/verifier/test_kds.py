"""AMD's key distribution service, played by a fake that answers, limits and breaks."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec.structs import replace

from sevfork.attest.evidence import Evidence
from sevfork.attest.snp.certificates import CertificateTable
from sevfork.attest.verify import Expected, judge
from sevfork.errors import HostCannot, TimedOut
from sevfork.verifier.http import Answer, Fetcher
from sevfork.verifier.kds import TITLE, KeyDistribution
from sevfork.verifier.service import Service
from tests.support import fake_amd
from tests.support.fake_amd import EXPIRED, NOW, REPORT_DATA, Part, authority, revocation_list

BASE = "https://kdsintf.amd.com/"


@dataclass
class FakeService:
    """Answers for one part; ``limits`` many requests are turned away first."""

    part: Part
    limits: int = 0
    retry_after_s: float | None = None
    urls: list[str] = field(default_factory=list)

    def __call__(self, url: str, *, timeout_s: float) -> Answer:
        assert timeout_s > 0
        self.urls.append(url)
        if self.limits:
            self.limits -= 1
            return Answer(429, b"", self.retry_after_s)
        if url.endswith("/cert_chain"):
            return Answer(200, self.chain())
        if url.endswith("/crl"):
            return Answer(200, revocation_list(self.part.product))
        return Answer(200, self.part.certificates().vcek)

    def chain(self) -> bytes:
        product = self.part.product
        ask = authority(f"SEV-{product}", f"ARK-{product}", "ARK")
        ark = authority(f"ARK-{product}", None, "ARK")
        return ask.public_bytes(Encoding.PEM) + ark.public_bytes(Encoding.PEM)


@dataclass
class FakeClock:
    now_s: float = 0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


@dataclass(frozen=True)
class Kds:
    """The service's side that is tested, and what it makes of evidence."""

    source: KeyDistribution

    def complete(self, evidence: Evidence) -> Evidence:
        """Raises for the first thing that is missing."""
        gathered = self.source.gather(evidence)
        if gathered.missing:
            raise gathered.missing[0]
        return gathered.evidence


def service(
    cache: Path,
    fetcher: Fetcher | None,
    clock: FakeClock | None = None,
    now: datetime = NOW,
) -> Kds:
    clock = clock or FakeClock()
    made = Service(TITLE, cache, fetcher, now=lambda: now, clock=clock, sleep=clock.sleep)
    return Kds(KeyDistribution(made))


def bare(part: Part) -> Evidence:
    return replace(part.evidence(), certificates=b"")


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
def test_bare_report_is_completed_and_passes(tmp_path: Path, product: str) -> None:
    part = Part(product=product)
    complete = service(tmp_path, FakeService(part)).complete(bare(part))
    assert judge(complete, fake_amd.snp_policy(crl="required"), Expected(REPORT_DATA), NOW).passed


def test_urls_are_amds_and_use_the_reported_tcb(tmp_path: Path) -> None:
    fake = FakeService(Part())
    service(tmp_path, fake).complete(bare(fake.part))
    chip = "c1" * 64
    assert fake.urls == [
        f"{BASE}vcek/v1/Milan/{chip}?blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219",
        f"{BASE}vcek/v1/Milan/cert_chain",
        f"{BASE}vcek/v1/Milan/crl",
    ]


def test_turin_is_asked_for_with_a_short_id_and_its_fmc(tmp_path: Path) -> None:
    fake = FakeService(Part(product="Turin"))
    service(tmp_path, fake).complete(bare(fake.part))
    short = f"{BASE}vcek/v1/Turin/{'c1' * 8}?blSPL=01&teeSPL=01&snpSPL=04&ucodeSPL=80&fmcSPL=03"
    assert fake.urls[0] == short


def test_what_the_evidence_has_is_not_asked_for(tmp_path: Path) -> None:
    part = Part(crl=revocation_list())
    fake = FakeService(part)
    evidence = part.evidence()
    assert service(tmp_path, fake).complete(evidence) == evidence
    assert fake.urls == []


def test_cache_answers_offline_afterwards(tmp_path: Path) -> None:
    fake = FakeService(Part())
    first = service(tmp_path, fake).complete(bare(fake.part))
    again = service(tmp_path, None).complete(bare(fake.part))
    assert again.certificates == first.certificates


def test_offline_is_the_default_and_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HostCannot, match="not at hand") as caught:
        service(tmp_path, None).complete(bare(Part()))
    assert "--certs" in str(caught.value.hint)


def test_too_many_requests_are_waited_out(tmp_path: Path) -> None:
    fake, clock = FakeService(Part(), limits=3), FakeClock()
    service(tmp_path, fake, clock).complete(bare(fake.part))
    assert clock.slept == [1, 2, 4]


def test_retry_after_is_respected(tmp_path: Path) -> None:
    fake, clock = FakeService(Part(), limits=2, retry_after_s=7), FakeClock()
    service(tmp_path, fake, clock).complete(bare(fake.part))
    assert clock.slept == [7, 7]


def test_endless_rate_limit_ends_at_the_deadline(tmp_path: Path) -> None:
    fake, clock = FakeService(Part(), limits=10**6), FakeClock()
    with pytest.raises(TimedOut, match="120 s"):
        service(tmp_path, fake, clock).complete(bare(fake.part))
    assert clock.now_s <= 120


def test_expired_revocation_list_is_fetched_again(tmp_path: Path) -> None:
    fake = FakeService(Part())
    service(tmp_path, fake).complete(bare(fake.part))
    later = service(tmp_path, fake, now=datetime(2031, 1, 1, tzinfo=UTC))
    later.complete(bare(fake.part))
    assert [url.rsplit("/", 1)[1] for url in fake.urls[3:]] == ["crl"]


def test_a_list_of_the_evidence_that_has_run_out_is_fetched_anew(tmp_path: Path) -> None:
    fetcher = FakeService(Part())
    old = Part(crl=revocation_list(valid=EXPIRED)).evidence()
    complete = service(tmp_path, fetcher).complete(old)
    assert fetcher.urls == [f"{BASE}vcek/v1/Milan/crl"]
    assert judge(complete, fake_amd.snp_policy(crl="required"), Expected(REPORT_DATA), NOW).passed


def test_answer_that_is_no_certificate_is_not_kept(tmp_path: Path) -> None:
    def garbage(url: str, *, timeout_s: float) -> Answer:
        return Answer(200, b"<html>")

    with pytest.raises(HostCannot, match="answered '.*' with something else"):
        service(tmp_path, garbage).complete(bare(Part()))
    assert list(tmp_path.iterdir()) == []


def test_other_answers_are_errors_that_name_the_url(tmp_path: Path) -> None:
    def absent(url: str, *, timeout_s: float) -> Answer:
        return Answer(404, b"")

    with pytest.raises(HostCannot, match="answered 404 to 'https://kdsintf"):
        service(tmp_path, absent).complete(bare(Part()))


def test_vlek_is_never_amds_to_give(tmp_path: Path) -> None:
    with pytest.raises(HostCannot, match="cloud provider"):
        service(tmp_path, FakeService(Part())).complete(bare(Part(vlek=True)))


def test_version_2_takes_its_product_from_the_certificates(tmp_path: Path) -> None:
    part = Part(version=2)
    table = replace(part.certificates(), ask=b"", ark=b"")
    evidence = replace(part.evidence(), certificates=table.encode())
    complete = service(tmp_path, FakeService(part)).complete(evidence)
    assert CertificateTable.decode(complete.certificates).ark
    with pytest.raises(HostCannot, match="version 2"):
        service(tmp_path, FakeService(part)).complete(bare(part))
