"""Fresh evidence from a running VM, and what of it a file still proves."""

from __future__ import annotations

import json
from pathlib import Path

from tests.vm.lab import IMAGES, Lab, Vm


def test_simulated_evidence_is_refused_unless_it_is_asked_for(lab: Lab, redis_parent: Vm) -> None:
    refused = lab.run("attest", redis_parent.name, check=False)
    assert refused.returncode == 21, refused.stderr
    assert refused.stdout == ""
    passed = lab.run("attest", redis_parent.name, "--allow-simulated")
    assert "simulated, not confidential" in passed.stdout


def test_every_attestation_is_fresh(lab: Lab, redis_parent: Vm) -> None:
    words = ("attest", redis_parent.name, "--allow-simulated", "--json")
    first, second = (lab.run(*words).data for _ in range(2))
    assert first["verdict"] == second["verdict"] == "passed"
    assert first["report_data"] != second["report_data"]
    assert first["claims"]["instance_key"] == second["claims"]["instance_key"]


def test_a_vm_is_held_against_the_image_it_should_run(
    lab: Lab, redis_parent: Vm, tmp_path: Path
) -> None:
    words = ("attest", redis_parent.name, "--allow-simulated", "--image")
    assert lab.run(*words, str(IMAGES / "redis")).returncode == 0
    # Another image: the same files, and a manifest that expects another launch.
    for path in (IMAGES / "redis").iterdir():
        (tmp_path / path.name).symlink_to(path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["launch_digests"] = dict.fromkeys(manifest["launch_digests"], "00" * 48)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    failed = lab.run(*words, str(tmp_path), check=False)
    assert failed.returncode == 20, failed.stderr
    assert "measurement" in failed.stderr


def test_saved_evidence_is_verified_later_and_a_flipped_bit_is_seen(
    lab: Lab, redis_parent: Vm, tmp_path: Path
) -> None:
    saved = tmp_path / "evidence"
    options = ("--allow-simulated", "--save", str(saved), "--json")
    attested = lab.run("attest", redis_parent.name, *options).data
    words = ("verify", str(saved), "--report-data", attested["report_data"])
    assert lab.run(*words, check=False).returncode == 21
    assert lab.run(*words, "--allow-simulated").returncode == 0
    data = bytearray(saved.read_bytes())
    data[0x90 + 20] ^= 1  # in the measurement
    saved.write_bytes(data)
    assert lab.run(*words, "--allow-simulated", check=False).returncode == 20
