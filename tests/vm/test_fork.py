"""The main job, on real guests."""

from __future__ import annotations

import json
import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import redis

from scripts.client import SEVFORK, LongestWait
from tests.support import audit_reader
from tests.vm.lab import Lab, Vm

KEYS = 25_600  # of 4 KiB: 100 MiB


def value(key: int) -> bytes:
    return random.Random(key).randbytes(4096)  # noqa: S311 - test data


def fill(client: redis.Redis) -> None:
    for start in range(0, KEYS, 256):
        client.mset({f"key:{key}": value(key) for key in range(start, start + 256)})


def holds_every_key(client: redis.Redis) -> bool:
    return all(
        client.mget([f"key:{key}" for key in range(start, start + 256)])
        == [value(key) for key in range(start, start + 256)]
        for start in range(0, KEYS, 256)
    )


def test_children_hold_every_key_of_one_instant_and_go_their_own_way(lab: Lab) -> None:
    parent = lab.up("redis")
    client = parent.redis()
    fill(client)
    client.set("last-write", "before")
    with LongestWait(parent.redis()) as other:
        forked, children = lab.fork(parent, "-n", "2")
    client.set("last-write", "after")

    assert other.error is None, "a connection that was open before the fork broke"
    print(f"pause {forked['pause_ms']:.0f} ms, a client's longest wait {other.longest_ms:.0f} ms")
    assert len(children) == 2
    counters = set()
    for child in children:
        theirs = child.redis()
        assert holds_every_key(theirs)
        assert theirs.get("last-write") == b"before"
        counters.add(int(cast("bytes", theirs.get("counter"))))
        theirs.set("own", child.name)
    assert len(counters) == 1, "the children are not of one instant"
    assert 0 < counters.pop() <= other.count
    assert client.get("own") is None
    assert client.get("last-write") == b"after"
    assert [child.redis().get("own") for child in children] == [c.name.encode() for c in children]

    listed = lab.vms()
    assert all(listed[child.name]["parent_uuid"] == parent.uuid for child in children)
    assert_recorded(lab, parent, forked["fork_id"], children)
    lab.remove(parent, *children)


def assert_recorded(lab: Lab, parent: Vm, fork_id: str, children: list[Vm]) -> None:
    """What the parent gave to whom, by a reader that has nothing of sevfork."""
    gave, *became = [record_of(lab, vm) for vm in (parent, *children)]
    assert gave.counts == {"place": 1, "capture": 1, "refusal": 0, "grant": 2, "activation": 0}
    grants = [entry for entry in gave.entries if "warm" in entry]
    assert {grant["fork_id"].hex() for grant in grants} == {fork_id}
    granted = {grant["index"]: grant["instance_key"] for grant in grants}
    places = [read.entries[0] for read in became]
    assert [(place["generation"], place["fork_id"].hex()) for place in places] == [(1, fork_id)] * 2
    assert granted == {
        place["index"]: read.instance_key for place, read in zip(places, became, strict=True)
    }


def record_of(lab: Lab, vm: Vm) -> audit_reader.Read:
    told = lab.run("log", vm.name, "--verify", "--allow-simulated", "--json").data
    names = ("signed_head", "encoded_entries", "nonce", "instance_key")
    head, entries, nonce, key = (bytes.fromhex(told[name]) for name in names)
    return audit_reader.read(head, entries, nonce=nonce, instance_key=key)


def test_a_child_can_be_forked_again_and_ls_answers_meanwhile(lab: Lab, redis_parent: Vm) -> None:
    """Stdout carries the JSON and nothing else."""
    redis_parent.redis().set("generation", "0")
    with subprocess.Popen(
        [SEVFORK, "fork", redis_parent.name, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as forking:
        assert redis_parent.name in lab.vms()
        assert forking.poll() is None, "the fork was over before 'ls' had answered"
        out, err = forking.communicate(timeout=280)
    assert forking.returncode == 0, err
    forked = json.loads(out)
    assert forked["schema"] == 1
    assert forked["pause_ms"] > 0
    [child] = map(Vm.of, forked["children"])
    child.redis().set("generation", "1")
    again, [grandchild] = lab.fork(child)
    assert grandchild.redis().get("generation") == b"1"
    assert again["children"][0]["generation"] == 2
    lab.remove(grandchild, child)


def test_two_forks_of_one_parent_at_once_never_break_a_child(lab: Lab, redis_parent: Vm) -> None:
    redis_parent.redis().set("shared", "yes")
    with ThreadPoolExecutor(2) as pool:
        forks = list(pool.map(lambda name: lab.fork(redis_parent, "--name", name), two(lab)))
    children = [child for _, each in forks for child in each]
    assert [child.redis().get("shared") for child in children] == [b"yes", b"yes"]
    lab.remove(*children)


def two(lab: Lab) -> list[str]:
    return [lab.name(), lab.name()]
