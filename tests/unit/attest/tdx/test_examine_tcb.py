"""TCB levels of a platform, its module and its quoting enclave."""

from __future__ import annotations

from typing import Any

import pytest

from sevfork.attest.defaults import policy_toml
from sevfork.attest.policy import Policy
from sevfork.errors import UsageError
from sevfork.technology import Technology
from tests.support.fake_intel import (
    NOW,
    level,
    platform_level,
)
from tests.support.tdx_examined import INTEL, INTEL_5, POLICY, failures
from tests.support.tdx_samples import BUILT, accepted, tdx_policy


def test_a_tcb_status_that_the_policy_does_not_accept_is_rejected() -> None:
    old = INTEL.but(pce_svn=5)
    assert failures(old) == {"TCB status": "OutOfDate"}
    lenient = tdx_policy(INTEL.root_sha256, tcb_statuses=("UpToDate", "OutOfDate"))
    assert accepted(old.evidence(), lenient, NOW).verdict.passed


def test_a_policy_with_a_status_that_intel_does_not_have_is_no_policy() -> None:
    text = policy_toml([Technology.TDX], [INTEL.root_sha256], BUILT)
    with pytest.raises(UsageError, match="no status 'UpTodate'"):
        Policy.decode(text.replace("UpToDate", "UpTodate").encode())


def test_an_empty_list_of_statuses_accepts_nothing() -> None:
    assert set(failures(INTEL, tcb_statuses=())) == {"TCB status"}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"td": {"tee_tcb_svn": bytes([3, 1, 3]) + bytes(13)}}, "OutOfDate"),
        ({"qe_svn": 3}, "OutOfDate"),
        ({"tcb": {"tcbLevels": [platform_level("ConfigurationNeeded")]}, "qe_svn": 3},
         "OutOfDateConfigurationNeeded"),
        ({"tcb": {"tcbLevels": [platform_level("Revoked")]}}, "Revoked"),
    ],
    ids=["old-module", "old-qe", "configuration-and-old-qe", "revoked"],
)  # fmt: skip
def test_the_worst_of_platform_module_and_qe_counts(change: dict[str, Any], status: str) -> None:
    assert failures(INTEL.but(**change))["TCB status"] == status


@pytest.mark.parametrize(
    "change",
    [
        {"svns": (2,) * 7 + (1,) + (2,) * 8},
        {"pce_svn": 4},
        {"td": {"tee_tcb_svn": bytes([6, 1, 1]) + bytes(13)}},
    ],
    ids=["one-component", "pce", "tdx-component"],
)
def test_a_platform_below_every_level_is_rejected(change: dict[str, Any]) -> None:
    assert set(failures(INTEL.but(**change))) == {"TCB of the platform at launch"}


def test_a_module_of_version_1_is_not_compared_with_the_components_of_version_0() -> None:
    levels = [platform_level("UpToDate", tdx=(9, 0, 2))]
    assert accepted(INTEL.but(tcb={"tcbLevels": levels}).evidence(), POLICY, NOW).verdict.passed


def test_a_module_of_version_0_is_compared_in_all_components() -> None:
    td = {"tee_tcb_svn": bytes([4, 0, 3]) + bytes(13)}
    assert set(failures(INTEL.but(td=td))) == {"TCB of the platform at launch"}
    td = {"tee_tcb_svn": bytes([5, 0, 3]) + bytes(13)}
    assert accepted(INTEL.but(td=td).evidence(), POLICY, NOW).verdict.passed


def test_a_module_that_intel_does_not_list_is_rejected() -> None:
    td = {"tee_tcb_svn": bytes([6, 2, 3]) + bytes(13)}
    assert failures(INTEL.but(td=td)) == {
        "TCB of the TDX module at launch": "TCB info has no TDX module 'TDX_02'"
    }


def test_a_module_that_intel_did_not_sign_is_rejected() -> None:
    failed = failures(INTEL.but(td={"mrsignerseam": b"\x01" * 48}))
    assert set(failed) == {"TCB of the TDX module at launch", "MRSIGNERSEAM"}


def test_seam_attributes_are_checked_by_the_policy_and_by_intels_mask() -> None:
    failed = failures(INTEL.but(td={"seam_attributes": b"\x01" + bytes(7)}))
    assert set(failed) == {"TCB of the TDX module at launch", "SEAM attributes"}


def _svn(*svns: int) -> bytes:
    return bytes(svns) + bytes(16 - len(svns))


def test_a_td_that_was_launched_under_an_old_module_has_to_be_launched_again() -> None:
    updated = INTEL_5.but(td={"tee_tcb_svn": _svn(3, 1, 3), "tee_tcb_svn2": _svn(6, 1, 3)})
    assert failures(updated) == {"TCB status": "TDRelaunchAdvised"}


def test_a_platform_that_is_below_every_level_now_is_rejected() -> None:
    fallen = INTEL_5.but(td={"tee_tcb_svn": _svn(6, 1, 3), "tee_tcb_svn2": _svn(6, 1, 1)})
    assert set(failures(fallen)) == {"TCB of the platform now"}


def test_advisories_are_listed_and_may_be_refused() -> None:
    levels = [platform_level("UpToDate", "INTEL-SA-01036", "INTEL-SA-00837")]
    intel = INTEL.but(tcb={"tcbLevels": levels})
    facts = dict(accepted(intel.evidence(), POLICY, NOW).verdict.facts)
    assert facts["advisories"] == "INTEL-SA-00837, INTEL-SA-01036"
    assert failures(intel, advisories=("INTEL-SA-00837",)) == {"advisory": "INTEL-SA-01036"}


def test_a_level_says_how_old_it_is() -> None:
    facts = dict(accepted(INTEL.evidence(), POLICY, NOW).verdict.facts)
    assert facts["TCB date"] == "2025-05-14"


def test_no_levels_at_all_is_rejected() -> None:
    assert set(failures(INTEL.but(tcb={"tcbLevels": []}))) == {"TCB of the platform at launch"}
    assert set(failures(INTEL.but(qe={"tcbLevels": [level("UpToDate", isvsvn=9)]}))) == {
        "TCB of the QE"
    }
