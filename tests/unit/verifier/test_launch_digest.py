"""Launch digests: the simulated one by its definition, SNP's by the tool's published values."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from sevfork.errors import UsageError
from sevfork.simulated.launch_digest import simulated_launch_digest
from sevfork.verifier.launch_digest import MeasuredLaunch, snp_launch_digest

KERNEL, INITRD = b"k" * 48, b"i" * 48


def test_simulated_digest_is_its_definition() -> None:
    parts = [b"sevfork/1 simulated launch", KERNEL, INITRD, b"quiet", b"\0\0\0\2", b"max"]
    hashed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    digest = simulated_launch_digest(KERNEL, INITRD, b"quiet", 2, "max")
    assert digest == hashlib.sha384(hashed).digest()


def test_each_input_changes_the_simulated_digest() -> None:
    digests = {
        simulated_launch_digest(*inputs)
        for inputs in (
            (KERNEL, INITRD, b"quiet", 1, "max"),
            (INITRD, KERNEL, b"quiet", 1, "max"),
            (KERNEL, INITRD, b"quiet ", 1, "max"),
            (KERNEL, INITRD, b"quiet", 2, "max"),
            (KERNEL, INITRD, b"quiet", 1, "qemu64"),
        )
    }
    assert len(digests) == 5


def test_simulated_digest_takes_digests_and_not_files() -> None:
    with pytest.raises(UsageError, match="48 bytes"):
        simulated_launch_digest(b"kernel", INITRD, b"", 1, "max")


@pytest.mark.parametrize(
    ("features", "digest"),
    [
        (0x1, "ddc5224521617a536ee7ce9dd6224d1b58a8d4fda1c741f3ac99fc4bfa04ba6e"
              "9fc98646d4a07a9079397fa3852819b5"),
        (0x21, "329c8ce0972ae52343b64d34a434a86f245dfd74f5ed7aae15d22efc78fb9683"
               "632b9b50e4e1d7fa41179ef98a7ef198"),
    ],
)  # fmt: skip
def test_snp_digest_of_the_published_firmware(vectors: Path, features: int, digest: str) -> None:
    null = Path("/dev/null")
    firmware = vectors / "sev-snp-measure/ovmf_AmdSev_suffix.bin"
    launch = MeasuredLaunch(firmware, null, null, "", 1, "EPYC-v4", features)
    assert snp_launch_digest(launch).hex() == digest


def test_unknown_cpu_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no CPU model 'maximum'"):
        snp_launch_digest(MeasuredLaunch(tmp_path, tmp_path, tmp_path, "", 1, "maximum"))


def test_firmware_that_is_none_is_an_error(tmp_path: Path) -> None:
    firmware = tmp_path / "firmware"
    firmware.write_bytes(bytes(4096))
    null = Path("/dev/null")
    with pytest.raises(UsageError, match="cannot be measured"):
        snp_launch_digest(MeasuredLaunch(firmware, null, null, "", 1, "EPYC-v4"))
