"""Genuine samples on which sevfork was wrong in November 2026, each with what it must give.

The table is the README of ``found-2026-11`` in the folder of samples (``SEVFORK_VECTORS``), where
the sources stand too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sevfork.attest.guest_policy import guest_policy_toml
from sevfork.cli.main import run
from sevfork.cli.options import App
from sevfork.technology import Technology
from tests.support import genuine


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


Verify = Callable[..., Done]


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Verify:
    """Relative paths are below the folder."""
    folder = genuine.find("found-2026-11")

    def call(*arguments: str) -> Done:
        paths = [str(folder / a) if (folder / a).exists() else a for a in arguments]
        code = run(App(), ["verify", *paths])
        return Done(code, *capsys.readouterr())

    return call


def test_a_truncated_crl_is_named_and_never_counts_as_none(verify: Verify) -> None:
    sample = "snp/yaxi-genoa-v5"
    call = (f"{sample}/report.bin", "--certs", f"{sample}/certs", "--at", "2026-09-01")
    done = verify(*call, "--certs", "formats/badcrl")
    assert (done.code, done.out) == (2, "")
    assert "genoa.crl" in done.err
    assert verify(*call).code == 0


def test_one_more_field_in_the_collateral_changes_nothing(verify: Verify) -> None:
    call = ("tdx/alibaba-v5/quote.bin", "--at", "2026-03-18", "--certs")
    for folder in ("tdx/alibaba-v5/certs", "formats/extra"):
        done = verify(*call, folder)
        assert done.code == 20
        assert "got    OutOfDate" in done.out


def test_truncated_collateral_is_named_and_never_counts_as_none(verify: Verify) -> None:
    done = verify("tdx/alibaba-v5/quote.bin", "--certs", "formats/trunc", "--at", "2026-03-18")
    assert (done.code, done.out) == (2, "")
    assert "collateral.json" in done.err


def test_of_two_collaterals_the_one_of_the_quotes_fmspc_is_taken(verify: Verify) -> None:
    sample = "tdx/two-collaterals"
    done = verify(f"{sample}/quote.bin", "--certs", f"{sample}/certs", "--at", "2026-03-18")
    assert done.code == 0


def test_of_two_vleks_the_one_that_signed_is_taken(verify: Verify) -> None:
    sample = "snp/two-vleks"
    call = (f"{sample}/report.bin", "--certs", f"{sample}/certs", "--at", "2025-06-01")
    assert verify(*call, "--policy", "policies/aws.toml").code == 0


def test_vlek_and_root_name_the_product_of_a_version_2_report(verify: Verify) -> None:
    sample = "snp/flashbots-aws-vlek-v2-2024"
    call = (f"{sample}/report.bin", "--certs", f"{sample}/certs", "--at", "2024-12-01")
    assert verify(*call, "--policy", "policies/aws.toml").code == 0


def test_platform_info_bit_6_has_a_name(verify: Verify) -> None:
    sample = "snp/msft-tav-turin"
    call = (f"{sample}/report.bin", "--certs", f"{sample}/certs", "--at", "2026-06-20")
    done = verify(*call, "--policy", "policies/iommu.toml")
    assert done.code == 0
    assert "iommu-write-safe" in done.out


@pytest.mark.parametrize("sample", ["snp/lunal-siena-v5-b", "snp/trustee-e2e-bergamo-v3"])
def test_the_policy_of_an_image_knows_microcode_by_stepping(
    verify: Verify, tmp_path: Path, sample: str
) -> None:
    policy = tmp_path / "policy.toml"
    built = datetime(2025, 1, 1, tzinfo=UTC)
    policy.write_text(guest_policy_toml(Technology.SEV_SNP, "owner", (), built))
    call = (f"{sample}/report.bin", "--certs", f"{sample}/certs", "--at", "2026-06-20")
    assert verify(*call, "--policy", str(policy)).code == 0


@pytest.mark.parametrize(
    "sample", ["yaxi-genoa-v5", "lunal-siena-v5-b", "msft-tav-turin", "trustee-e2e-bergamo-v3"]
)
def test_a_vcek_alone_is_enough(verify: Verify, sample: str) -> None:
    """AMD's intermediates and roots come with sevfork."""
    call = (f"snp/{sample}/report.bin", "--certs", f"snp/{sample}/certs/vcek.der")
    assert verify(*call, "--at", "2026-06-20").code == 0
