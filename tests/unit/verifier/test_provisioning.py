"""Intel's service: what is asked for, for which quote, and what is kept of it. No socket."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from sevfork.attest.evidence import Evidence
from sevfork.attest.tdx.collateral import Collateral
from sevfork.errors import AttestationFailed, HostCannot, UsageError
from sevfork.technology import Technology
from sevfork.verifier.provisioning import INTEL_ROOT_LIST_URL, INTEL_URL, Provisioning
from sevfork.verifier.service import Service
from sevfork.verifier.sources import Sources
from tests.support.fake_intel import NOW, Certificate, FakeIntel
from tests.support.vendor_services import Web, intel_pages

INTEL = FakeIntel()
PROCESSOR_CA = "Intel SGX PCK Processor CA"


def web_of(*, down: bool = False) -> Web:
    return Web(intel_pages(INTEL), down=down)


def source(cache: Path, web: Web | None, *, anew: bool = False) -> Provisioning:
    return Provisioning.at(Service("Intel", cache, web, anew=anew, now=lambda: NOW), None)


def bare(intel: FakeIntel = INTEL) -> Evidence:
    return Evidence(Technology.TDX, intel.quote(), b"")


def test_intel_itself_is_asked_for_the_quotes_kind_of_platform(tmp_path: Path) -> None:
    web = web_of()
    gathered = source(tmp_path, web).gather(bare())
    assert web.asked == [
        f"{INTEL_URL}tdx/certification/v4/tcb?fmspc=B0C06F000000",
        f"{INTEL_URL}tdx/certification/v4/qe/identity",
        INTEL_ROOT_LIST_URL,
        f"{INTEL_URL}sgx/certification/v4/pckcrl?ca=platform&encoding=der",
    ]
    assert [item.until is not None for item in gathered.items] == [True] * 4
    assert Collateral.decode(gathered.evidence.certificates).tcb_info.issuer_chain


def test_a_processor_ca_has_a_list_of_its_own(tmp_path: Path) -> None:
    web = web_of()
    pck = dataclasses.replace(INTEL.pck, issuer_name=PROCESSOR_CA)
    ca = Certificate("Intel SGX PCK Platform CA", "Intel SGX Root CA", ca=True,
                     common_name=PROCESSOR_CA)  # fmt: skip
    source(tmp_path, web).gather(bare(INTEL.but(pck=pck, platform_ca=ca)))
    assert web.asked[-1].endswith("pckcrl?ca=processor&encoding=der")


def test_documents_that_are_current_are_asked_for_again_only_if_that_is_wanted(
    tmp_path: Path,
) -> None:
    web = web_of()
    source(tmp_path, web).gather(bare())
    source(tmp_path, web).gather(bare())
    assert len(web.asked) == 4
    source(tmp_path, web, anew=True).gather(bare())
    assert len(web.asked) == 8


def test_what_is_kept_serves_where_newer_was_wanted_and_is_not_to_be_had(tmp_path: Path) -> None:
    first = source(tmp_path, web_of()).gather(bare())
    web = web_of(down=True)
    again = source(tmp_path, web, anew=True).gather(replace(first.evidence, certificates=b""))
    assert len(again.missing) == 4
    assert again.evidence == first.evidence
    assert len(web.asked) == 1, "a service that is not to be reached is tried once"


def test_a_service_that_was_not_to_be_reached_is_tried_again_after_a_minute(tmp_path: Path) -> None:
    web, now = web_of(down=True), [100.0]
    service = Service("Intel", tmp_path, web, now=lambda: NOW, clock=lambda: now[0])
    tried = []
    for moment in (100.0, 159.0, 160.0):
        now[0] = moment
        Provisioning.at(service, None).gather(bare())
        tried.append(len(web.asked))
    assert tried == [1, 1, 2]


@pytest.mark.parametrize("damage", [b"", b"{", b"HTTP/1.1 200 OK\r\n\r\n{}"])
def test_a_damaged_cache_counts_as_none(tmp_path: Path, damage: bytes) -> None:
    web = web_of()
    source(tmp_path, web).gather(bare())
    for file in tmp_path.iterdir():
        file.write_bytes(damage)
    assert not source(tmp_path, web).gather(bare()).missing
    assert len(web.asked) == 8


def test_a_part_that_is_missing_leaves_no_half_collateral(tmp_path: Path) -> None:
    gathered = source(tmp_path, None).gather(bare())
    assert gathered.evidence.certificates == b""
    assert len(gathered.missing) == 4
    assert "certs fetch" in (gathered.missing[0].hint or "")


@pytest.mark.parametrize("report", [b"", b"\4\0", INTEL.quote()[:700]])
def test_what_is_no_quote_is_refused(tmp_path: Path, report: bytes) -> None:
    with pytest.raises(AttestationFailed):
        source(tmp_path, web_of()).gather(Evidence(Technology.TDX, report, b""))


@pytest.mark.parametrize("url", ["localhost:8081", "file:///", "ftp://pccs"])
def test_a_pccs_is_on_the_web(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="not the URL of a PCCS"):
        Provisioning.at(Service("PCCS", tmp_path), url)


def test_sources_are_the_vendors_or_the_pccs_of_the_environment(tmp_path: Path) -> None:
    own = Sources.of({"XDG_CACHE_HOME": str(tmp_path)})
    assert own.intel.base_url == INTEL_URL
    environ = {"XDG_CACHE_HOME": str(tmp_path), "SEVFORK_PCCS": "https://pccs:8081"}
    assert Sources.of(environ).intel.root_list_url.startswith("https://pccs:8081/")
    assert Sources.of(environ, pccs_url="http://x").intel.base_url == "http://x/"


def test_evidence_that_lacks_something_is_put_down_for_the_command_that_gets_it(
    tmp_path: Path,
) -> None:
    sources = Sources.of({"XDG_CACHE_HOME": str(tmp_path)})
    gathered = sources.gather(bare())
    assert gathered.kept_at is not None
    assert Evidence.decode(Path(gathered.kept_at).read_bytes()) == gathered.evidence
    with pytest.raises(HostCannot, match="TCB info of b0c06f000000 is not at hand"):
        sources.complete(bare())


def test_a_clock_that_is_ahead_makes_documents_run_out(tmp_path: Path) -> None:
    source(tmp_path, web_of()).gather(bare())
    service = Service("Intel", tmp_path, None, now=lambda: NOW + timedelta(days=400))
    missing = Provisioning.at(service, None).gather(bare()).missing
    assert "TCB info of b0c06f000000 has run out" in missing[0].message
