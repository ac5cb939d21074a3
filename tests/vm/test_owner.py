"""A family with an owner, on real guests: nobody forks before the owner has spoken."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from sevfork.handshake import OwnerToken
from sevfork.owner.key_file import PrivateKey, read_key
from tests.support.owners import STRANGER_LINE
from tests.vm.lab import IMAGES, WORKLOADS, Lab

IMAGE = IMAGES / "redis-owner"
SIMULATED = "--allow-simulated"


@pytest.fixture(scope="module")
def image(lab: Lab) -> Path:
    """A Redis that is forked by its owner's word only."""
    words = ("--workload", str(WORKLOADS[0] / "redis.toml"), "--fork", "owner")
    lab.run("guest", "build", "-o", str(IMAGE), *words, timeout_s=900)
    return IMAGE


def test_a_family_begins_with_its_owners_word(lab: Lab, image: Path, tmp_path: Path) -> None:
    names = ("owner", "passphrase", "policy", "nonce", "request", "reply", "token", "lineage")
    private, passphrase, policy, nonce, request, reply, token, saved = (
        tmp_path / name for name in names
    )
    passphrase.write_text("correct horse\n")
    key = ("--passphrase-file", str(passphrase), "--key", str(private))
    line = lab.run("owner", "init", "-o", str(private), *key[:2]).stdout.strip()
    policy.write_text(lab.run("policy", "--technology", "simulated").stdout)

    root = lab.name()
    lab.run("up", root, "--image", str(image), "--publish", "6379", "--owner", line)
    refused = lab.run("fork", root, check=False)
    assert refused.returncode == 23, refused.stderr
    assert f"sevfork owner adopt {root} --policy" in refused.stderr

    lab.run("owner", "nonce", "-o", str(nonce))
    lab.run("owner", "request", root, "--nonce", str(nonce), "-o", str(request))
    owners = ("--policy", str(policy), "--image", str(image), SIMULATED, *key)
    by_files = ("--request", str(request), "--nonce", str(nonce), "-o", str(reply))
    lab.run("owner", "adopt", *by_files, *owners)
    lab.run("owner", "install", root, "--reply", str(reply))
    lab.run("owner", "adopt", root, *owners)

    authorize = ("owner", "authorize", root, SIMULATED, *key, "-o", str(token))
    lab.run(*authorize, "--children", "1")
    refused_token(lab, root, token, "1 children, not 2", "-n", "2")
    forked = lab.run("fork", root, "--token", str(token), "--json").data
    child = forked["children"][0]["name"]

    words = ("lineage", child, SIMULATED, "--json")
    told = lab.run(*words, "--owner", line, "--save", str(saved)).data
    assert [member["vm"] for member in told["members"]] == [root, child]
    assert [member["evidence"] for member in told["members"]] == ["passed", "passed"]
    assert told["members"][1]["fork_id"] == forked["fork_id"]
    refused_token(lab, root, token, "is spent")

    lab.run("lineage", str(saved), SIMULATED, "--owner", line)
    assert lab.run(*words, "--owner", STRANGER_LINE, check=False).returncode == 22
    attested = lab.run("attest", child, SIMULATED, "--owner", STRANGER_LINE, check=False)
    assert attested.returncode == 22, attested.stderr

    signer = read_key(private, private.read_text(), passphrase.read_bytes().strip)
    other_tokens_are_refused(lab, root, token, signer)
    assert lab.vms()[root]["state"] == "running"
    lab.run("rm", child, root)

    lab.run("up", root, "--image", str(image), "--owner", line)
    lab.run("owner", "adopt", root, *owners)
    refused_token(lab, root, token, "this VM was started anew")
    lab.run("rm", root)


def refused_token(lab: Lab, vm: str, token: Path, reason: str, *options: str) -> None:
    refused = lab.run("fork", vm, "--token", str(token), *options, check=False)
    assert refused.returncode == 23, refused.stderr
    assert reason in refused.stderr.splitlines()[0]


def other_tokens_are_refused(lab: Lab, vm: str, token: Path, owner: PrivateKey) -> None:
    """Of another owner, for another VM, under another policy, and with one bit flipped."""
    good = OwnerToken.decode(token.read_bytes())
    issue = partial(OwnerToken.issue, serial=1, allowed=good.allowed)
    instance, policy, other = good.instance_key, good.policy_digest, bytes(48)
    wrong = {
        "another owner": issue(PrivateKey.generate(), instance_key=instance, policy_digest=policy),
        "another instance": issue(owner, instance_key=bytes(32), policy_digest=policy),
        "another policy": issue(owner, instance_key=instance, policy_digest=other),
        "not valid": replace(good, serial=good.serial ^ 1),
    }
    for reason, forged in wrong.items():
        token.with_name("wrong").write_bytes(forged.encode())
        refused_token(lab, vm, token.with_name("wrong"), reason)
