"""Fetching over real HTTP, from a server that answers as AMD's and Intel's do, errors included."""

from __future__ import annotations

import email.utils
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec import structs

from sevfork.attest.evidence import Evidence
from sevfork.attest.verify import Expected, judge
from sevfork.errors import HostCannot, SevforkError, TimedOut
from sevfork.lifecycle.gathered import Gathered
from sevfork.verifier.certificate_files import certificate_files
from sevfork.verifier.http import LIMIT_BYTES, Fetcher, http_fetcher
from sevfork.verifier.kds import KeyDistribution
from sevfork.verifier.pool import Pool
from sevfork.verifier.provisioning import Provisioning
from sevfork.verifier.service import Service
from tests.support import fake_amd, fake_intel, vendor_services
from tests.support.fake_amd import REPORT_DATA, Part
from tests.support.fake_intel import FakeIntel
from tests.support.tdx_samples import tdx_policy
from tests.support.vendor_services import Page, VendorServices

PART, INTEL = Part(), FakeIntel(td={"report_data": REPORT_DATA})
REPORT = structs.replace(PART.evidence(), certificates=b"")
QUOTE = structs.replace(INTEL.evidence(), certificates=b"")
LATER = fake_intel.NOW + timedelta(days=400)


@pytest.fixture
def services() -> Iterator[VendorServices]:
    with vendor_services.running() as running:
        running.publish(PART)
        running.publish(INTEL)
        yield running


def amd(
    services: VendorServices,
    cache: Path,
    fetcher: Fetcher | None = http_fetcher,
    now: datetime = fake_amd.NOW,
    slept: list[float] | None = None,
) -> KeyDistribution:
    """AMD's service, whose waits are noted and not waited."""
    waits = [] if slept is None else slept
    service = Service("AMD", cache, fetcher, now=lambda: now, clock=lambda: sum(waits),
                      sleep=waits.append)  # fmt: skip
    return KeyDistribution(service, services.url)


def intel(
    services: VendorServices,
    cache: Path,
    fetcher: Fetcher | None = http_fetcher,
    now: datetime = fake_intel.NOW,
) -> Provisioning:
    return Provisioning.at(Service("Intel", cache, fetcher, now=lambda: now), services.url)


def passes(evidence: Evidence) -> bool:
    policy = fake_amd.snp_policy(crl="required")
    if evidence.technology.value == "tdx":
        policy = tdx_policy(INTEL.root_sha256)
    return judge(evidence, policy, Expected(REPORT_DATA), fake_intel.NOW).passed


def missing(gathered: Gathered) -> list[str]:
    return [error.message for error in gathered.missing]


def test_what_evidence_needs_is_got_and_passes(services: VendorServices, tmp_path: Path) -> None:
    for gathered in (
        amd(services, tmp_path).gather(REPORT),
        intel(services, tmp_path).gather(QUOTE),
    ):
        assert gathered.missing == ()
        assert passes(gathered.evidence)


def test_what_was_got_serves_offline(services: VendorServices, tmp_path: Path) -> None:
    amd(services, tmp_path).gather(REPORT)
    intel(services, tmp_path).gather(QUOTE)
    asked = len(services.asked)
    again = (
        amd(services, tmp_path, None).gather(REPORT),
        intel(services, tmp_path, None).gather(QUOTE),
    )
    assert [each.missing for each in again] == [(), ()]
    assert all(passes(each.evidence) for each in again)
    assert len(services.asked) == asked


def test_the_cache_is_a_folder_for_certs(services: VendorServices, tmp_path: Path) -> None:
    amd(services, tmp_path).gather(REPORT)
    intel(services, tmp_path).gather(QUOTE)
    pool = Pool.read(certificate_files([tmp_path]), fake_intel.NOW)
    assert passes(pool.complete(REPORT))
    assert passes(pool.complete(QUOTE))


def test_what_has_run_out_is_got_anew_and_the_rest_is_not(
    services: VendorServices, tmp_path: Path
) -> None:
    amd(services, tmp_path).gather(REPORT)
    intel(services, tmp_path).gather(QUOTE)
    services.asked.clear()
    amd(services, tmp_path, now=datetime(2031, 1, 1, tzinfo=UTC)).gather(REPORT)
    assert services.asked == ["/vcek/v1/Milan/crl"]
    services.asked.clear()
    intel(services, tmp_path, now=LATER).gather(QUOTE)
    assert len(services.asked) == 4


def test_what_has_run_out_is_handed_on_where_there_is_nothing_better(
    services: VendorServices, tmp_path: Path
) -> None:
    """A list that has run out still says who is revoked; the policy decides by the time."""
    first = intel(services, tmp_path).gather(QUOTE)
    stale = intel(services, tmp_path, None, LATER).gather(QUOTE)
    assert len(stale.missing) == 4
    assert "has run out" in stale.missing[0].message
    assert stale.evidence == first.evidence


# What a PCCS differs in.


@pytest.mark.parametrize("suffix", ["", "/", "/sgx/certification/v4", "/sgx/certification/v4/"])
def test_the_url_of_a_pccs_may_be_that_of_its_configuration(
    services: VendorServices, tmp_path: Path, suffix: str
) -> None:
    service = Service("PCCS", tmp_path, http_fetcher, now=lambda: fake_intel.NOW)
    source = Provisioning.at(service, services.url.rstrip("/") + suffix)
    assert passes(source.gather(QUOTE).evidence)
    assert services.asked == [
        "/tdx/certification/v4/tcb?fmspc=B0C06F000000",
        "/tdx/certification/v4/qe/identity",
        "/sgx/certification/v4/rootcacrl",
        "/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
    ]


def test_lists_may_be_der_as_intel_itself_sends_them(
    services: VendorServices, tmp_path: Path
) -> None:
    for path in ("/sgx/certification/v4/pckcrl", "/sgx/certification/v4/rootcacrl"):
        services.pages[path] = Page(bytes.fromhex(services.pages[path].body.decode()))
    assert passes(intel(services, tmp_path).gather(QUOTE).evidence)


# Trouble.


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_trouble_that_passes_is_waited_out(
    services: VendorServices, tmp_path: Path, status: int
) -> None:
    slept: list[float] = []
    services.first = [Page(b"later", status)] * 3
    assert passes(amd(services, tmp_path, slept=slept).gather(REPORT).evidence)
    assert slept == [1, 2, 4]


def test_the_services_own_wish_is_respected_in_seconds_and_as_a_date(
    services: VendorServices, tmp_path: Path
) -> None:
    slept: list[float] = []
    at = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    services.first = [Page(b"", 503, {"Retry-After": wish}) for wish in ("7", at, "soon", "0")]
    amd(services, tmp_path, slept=slept).gather(REPORT)
    assert (slept[0], slept[2], slept[3]) == (7, 4, 0)
    assert 0 < slept[1] <= 90


def test_endless_refusals_end_at_the_deadline_and_are_not_tried_again(
    services: VendorServices, tmp_path: Path
) -> None:
    slept: list[float] = []
    services.first = [Page(b"", 429)] * 10**4
    source = amd(services, tmp_path, slept=slept)
    errors = source.gather(REPORT).missing
    assert sum(slept) <= 120
    assert {type(error) for error in errors} == {TimedOut}
    asked = len(services.asked)
    source.gather(REPORT)
    assert len(services.asked) == asked


BROKEN: dict[str, tuple[Callable[[Page], Page], str]] = {
    "absent": (lambda _: Page(b"no such platform", 404), "answered 404 to"),
    "elsewhere": (lambda _: Page(b"", 302, {"Location": "http://example.org/"}), "answered 302"),
    "empty": (lambda page: replace(page, body=b""), "answered 200"),
    "a portal": (
        lambda page: replace(page, body=b"<html>log in</html>"),
        "something else",
    ),
    "cut short": (lambda page: replace(page, missing=7), "cut short"),
    "oversized": (
        lambda page: replace(page, body=b"x" * (LIMIT_BYTES + 1)),
        f"{LIMIT_BYTES}",
    ),
    "another's": (
        lambda page: replace(page, body=b'{"tcbInfo":{},"signature":""}'),
        "else",
    ),
    "half": (
        lambda page: replace(page, body=page.body[: len(page.body) // 2]),
        "something else",
    ),
}


@pytest.mark.parametrize("path", sorted(vendor_services.intel_pages(INTEL)))
@pytest.mark.parametrize("trouble", BROKEN)
def test_one_bad_answer_of_intels_is_named_and_not_kept(
    services: VendorServices, tmp_path: Path, path: str, trouble: str
) -> None:
    spoil, words = BROKEN[trouble]
    services.pages[path] = spoil(services.pages[path])
    gathered = intel(services, tmp_path).gather(QUOTE)
    assert words in missing(gathered)[0]
    assert gathered.evidence == QUOTE
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]
    services.publish(INTEL)
    assert passes(intel(services, tmp_path).gather(QUOTE).evidence)


@pytest.mark.parametrize("path", sorted(vendor_services.amd_pages(PART)))
@pytest.mark.parametrize("trouble", BROKEN)
def test_one_bad_answer_of_amds_is_named_and_not_kept(
    services: VendorServices, tmp_path: Path, path: str, trouble: str
) -> None:
    spoil, words = BROKEN[trouble]
    services.pages[path] = spoil(services.pages[path])
    assert words in missing(amd(services, tmp_path).gather(REPORT))[0]
    services.publish(PART)
    assert passes(amd(services, tmp_path).gather(REPORT).evidence)


def test_a_document_without_its_signers_chain_is_not_kept(
    services: VendorServices, tmp_path: Path
) -> None:
    path = "/tdx/certification/v4/tcb"
    services.pages[path] = replace(services.pages[path], headers={})
    assert "no chain of its signer" in missing(intel(services, tmp_path).gather(QUOTE))[0]


def test_one_that_drips_is_given_up_in_time(services: VendorServices) -> None:
    """Each piece comes within the time for one; all of them would take minutes."""
    services.pages["/drip"] = Page(b"x" * 10**4, pieces=10**4, pause_s=0.02)
    with pytest.raises(HostCannot, match="no answer in time"):
        http_fetcher(f"{services.url}drip", timeout_s=0.3)


def test_one_that_says_nothing_is_given_up_in_time(services: VendorServices) -> None:
    services.pages["/mute"] = Page(b"xx", pieces=2, pause_s=1.5)
    with pytest.raises(HostCannot, match="no answer in time"):
        http_fetcher(f"{services.url}mute", timeout_s=0.3)


def test_nobody_there_is_said_in_words(services: VendorServices, tmp_path: Path) -> None:
    with pytest.raises(HostCannot, match="Connection refused"):
        http_fetcher("http://127.0.0.1:1/", timeout_s=5)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/", "127.0.0.1"])
def test_only_the_web_is_asked(url: str) -> None:
    with pytest.raises(SevforkError, match="no URL"):
        http_fetcher(url, timeout_s=1)
