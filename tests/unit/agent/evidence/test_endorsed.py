"""What the host hands a guest: it completes evidence, and decides nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sevfork.agent.evidence.endorsed import EndorsedProvider, Shelf
from sevfork.agent.identity import PolicyVerifier
from sevfork.attest.endorsements import endorsements
from sevfork.attest.evidence import CERTIFICATES_LIMIT_BYTES, Evidence
from sevfork.attest.guest_policy import GuestPolicy, guest_policy_toml
from sevfork.attest.policy import Policy
from sevfork.attest.verdict import EvidenceRejected
from sevfork.attest.verify import Expected
from sevfork.errors import AttestationFailed, NotAuthentic
from sevfork.technology import Technology
from sevfork.wire import protocol
from tests.support import fake_amd, fake_intel
from tests.support.certificate_memory import remember_certificates
from tests.support.fake_amd import REPORT_DATA, VALID, Part, authority, revocation_list
from tests.support.fake_intel import FakeIntel
from tests.support.tdx_samples import tdx_policy

SNP, TDX = Technology.SEV_SNP, Technology.TDX
DAY = timedelta(days=1)
REVOKING = revocation_list(
    number=2, revoked=(authority("SEV-Milan", "ARK-Milan", "ARK").serial_number,),
    valid=(VALID[0] + DAY, VALID[1]),
)  # fmt: skip
CLEAN = revocation_list(number=1)
NEWER = {"issueDate": "2026-02-27T10:00:00Z"}
QUOTED = bytes(range(64))
INTEL = FakeIntel(td={"report_data": QUOTED})


@pytest.fixture(autouse=True, scope="module")
def _certificates_are_read_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        remember_certificates(patched)
        yield


def guest_policy(technology: Technology, attest: Policy) -> GuestPolicy:
    built = datetime(2025, 1, 1, tzinfo=UTC)
    text = guest_policy_toml(technology, "anyone", fake_amd.roots(), built)
    return replace(GuestPolicy.decode(text.encode()), attest=attest)


def snp_verifier(*handed: bytes, crl: str = "required") -> PolicyVerifier:
    """A guest that was handed these revocation lists, beside good certificates."""
    shelf = Shelf(SNP)
    for content in handed:
        shelf.put(replace(Part().certificates(), crl=content).encode())
    policy = guest_policy(SNP, fake_amd.snp_policy(crl=crl))
    return PolicyVerifier(policy, shelf, lambda: fake_amd.NOW)


def tdx_verifier(*handed: FakeIntel) -> PolicyVerifier:
    shelf = Shelf(TDX)
    for intel in handed:
        shelf.put(intel.collateral().encode())
    return PolicyVerifier(
        guest_policy(TDX, tdx_policy(INTEL.root_sha256)), shelf, lambda: fake_intel.NOW
    )


def failures(verifier: PolicyVerifier, evidence: Evidence, data: bytes = REPORT_DATA) -> list[str]:
    """The failed checks; none if it passes."""
    try:
        verifier(evidence.encode(), Expected(data))
    except EvidenceRejected as exc:
        return [check.name for check in exc.verdict.failures]
    return []


def test_a_peer_without_certificates_passes_with_what_the_host_has_brought() -> None:
    bare = replace(Part().evidence(), certificates=b"")
    assert failures(snp_verifier(CLEAN), bare) == []
    assert failures(snp_verifier(), bare) == ["certificates"]
    quote = replace(INTEL.evidence(), certificates=b"")
    assert failures(tdx_verifier(INTEL), quote, QUOTED) == []
    assert failures(tdx_verifier(), quote, QUOTED) == ["collateral"]


def test_what_is_missing_is_told_with_the_command_that_gets_it() -> None:
    lacking = (
        (snp_verifier(), replace(Part().evidence(), certificates=b""), REPORT_DATA),
        (snp_verifier(), Part().evidence(), REPORT_DATA),
        (tdx_verifier(), replace(INTEL.evidence(), certificates=b""), QUOTED),
        (tdx_verifier(), INTEL.but(crl_until=fake_intel.NOW - DAY).evidence(), QUOTED),
    )
    for verifier, evidence, data in lacking:
        with pytest.raises(AttestationFailed) as caught:
            verifier(evidence.encode(), Expected(data))
        assert "sevfork certs fetch VM" in (caught.value.hint or "")


def test_what_no_command_can_mend_is_told_without_one() -> None:
    with pytest.raises(AttestationFailed) as caught:
        snp_verifier(CLEAN)(Part(crl=CLEAN).evidence().encode(), Expected(bytes(64)))
    assert caught.value.hint is None


def test_a_revocation_counts_though_the_peers_host_keeps_an_older_list() -> None:
    stale = Part(crl=CLEAN).evidence()
    assert failures(snp_verifier(CLEAN), stale) == []
    assert failures(snp_verifier(REVOKING), stale) == ["ASK"]


def test_a_revocation_is_not_taken_back() -> None:
    assert failures(snp_verifier(REVOKING, CLEAN), Part(crl=CLEAN).evidence()) == ["ASK"]
    assert failures(snp_verifier(REVOKING, CLEAN), Part().evidence()) == ["ASK"]


def test_a_revocation_that_the_peer_brings_counts_though_the_host_has_handed_over_none() -> None:
    forged = revocation_list(number=9, valid=(VALID[0] + 2 * DAY, VALID[1]))
    for handed in (CLEAN, forged):
        assert "ASK" in failures(snp_verifier(handed), Part(crl=REVOKING).evidence())


def test_a_list_that_somebody_else_has_signed_makes_no_pass() -> None:
    """Newer than all others, and not AMD's: it takes the true one's place, and is refused."""
    forged = revocation_list(number=9, valid=(VALID[0] + 2 * DAY, VALID[1]), key="ASK")
    assert failures(snp_verifier(forged), Part(crl=CLEAN).evidence()) == ["revocation list"]


@pytest.mark.parametrize(
    ("intel", "check"),
    [
        (INTEL.but(tcb={**NEWER, "tcbEvaluationDataNumber": 0}), "TCB info"),
        (INTEL.but(revoked_by_ca=(77,)), "revocation of the PCK certificate"),
    ],
)
def test_newer_collateral_of_the_hosts_is_judged_too(intel: FakeIntel, check: str) -> None:
    peer = INTEL.evidence()
    if check == "TCB info":
        broken = intel.collateral()
        document = replace(broken.tcb_info, signature=bytes(64))
        shelf = Shelf(TDX)
        shelf.put(replace(broken, tcb_info=document).encode())
        verifier = replace(tdx_verifier(), shelf=shelf)
    else:
        peer = INTEL.but(crl_issued=fake_intel.NOW - 9 * DAY).evidence()
        verifier = tdx_verifier(intel)
    assert failures(tdx_verifier(), peer, QUOTED) == []
    assert failures(verifier, peer, QUOTED) == [check]


class Bare:
    """A kernel that has nothing beside a report."""

    technology = SNP

    def evidence(self, report_data: bytes) -> Evidence:
        return replace(Part().evidence(), certificates=b"")


def test_a_guests_own_evidence_takes_along_what_it_was_handed() -> None:
    shelf = Shelf(SNP)
    provider = EndorsedProvider(Bare(), shelf)
    assert provider.evidence(REPORT_DATA).certificates == b""
    handed = replace(Part().certificates(), crl=CLEAN)
    shelf.put(handed.encode())
    assert provider.evidence(REPORT_DATA).certificates == handed.encode()


def test_evidence_of_another_technology_is_left_alone() -> None:
    shelf = Shelf(SNP)
    shelf.put(Part().certificates().encode())
    quote = replace(INTEL.evidence(), certificates=b"")
    assert shelf.renewed(shelf.filled(quote)) is quote


def test_what_cannot_be_read_leaves_what_is_held() -> None:
    shelf, handed = Shelf(SNP), Part().certificates().encode()
    shelf.put(handed)
    with pytest.raises(AttestationFailed):
        shelf.put(b"\xff" * 48)
    assert shelf.filled(Bare().evidence(REPORT_DATA)).certificates == handed


@pytest.mark.parametrize("size", [0, CERTIFICATES_LIMIT_BYTES + 1])
def test_more_than_fits_beside_a_report_is_refused_before_it_is_read(size: int) -> None:
    request = protocol.Endorse(bytes(size))
    with pytest.raises(NotAuthentic):
        protocol.decode_request(protocol.encode(request))


def test_a_table_that_does_not_fit_beside_the_kernels_is_an_error_of_ours() -> None:
    shelf = Shelf(SNP)
    revoked = tuple(range(1, 1500))
    shelf.put(replace(Part().certificates(), crl=revocation_list(revoked=revoked)).encode())
    large = replace(Part().certificates(), ark=b"", vlek=b"v" * 30000).encode()
    with pytest.raises(AttestationFailed, match="limit"):
        shelf.filled(Evidence(SNP, Part().report(), large))


GOOD_SNP = replace(Part().certificates(), crl=CLEAN).encode()
GOOD_TDX = INTEL.collateral().encode()
CHANGES = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=4)


def changed(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    octets = bytearray(data)
    for place, value in changes:
        octets[place % len(octets)] = value
    return bytes(octets)


@settings(max_examples=150, deadline=None)
@given(changes=CHANGES, technology=st.sampled_from([SNP, TDX]))
def test_no_damaged_gift_makes_a_refusal_a_pass_or_anything_a_crash(
    changes: list[tuple[int, int]], technology: Technology
) -> None:
    snp = technology is SNP
    verifier = snp_verifier() if snp else tdx_verifier()
    try:
        verifier.shelf.put(changed(GOOD_SNP if snp else GOOD_TDX, changes))
    except AttestationFailed:
        return
    data = REPORT_DATA if snp else QUOTED
    good = Part(crl=CLEAN).evidence() if snp else INTEL.evidence()
    revoked = Part(crl=REVOKING).evidence() if snp else INTEL.but(revoked_by_ca=(77,)).evidence()
    assert failures(verifier, revoked, data)
    assert failures(verifier, good, bytes(64))
    assert isinstance(failures(verifier, good, data), list), "passes or is refused"


def test_endorsements_of_the_simulated_processor_are_of_amds_form() -> None:
    table = Part().certificates().encode()
    assert endorsements(Technology.SIMULATED, table) == endorsements(SNP, table)
