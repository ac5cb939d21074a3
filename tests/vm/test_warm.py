"""Snapshots and warm children, on real guests."""

from __future__ import annotations

import signal

import pytest

from tests.vm.lab import Lab, Vm
from tests.vm.test_fork import fill, holds_every_key, value


def test_warm_and_cold_children_of_a_snapshot_hold_the_state_of_the_fork(lab: Lab) -> None:
    """One parent, since starting one is what costs: begun, updated, forked warm, then cold."""
    parent = lab.up("redis")
    client = parent.redis()
    fill(client)
    begun = lab.run("snapshot", parent.name, "--json").data
    client.set("key:0", b"written since")
    updated = lab.run("snapshot", parent.name, "--json").data
    assert (begun["layers"], updated["layers"], updated["begun_anew"]) == (1, 2, None)
    assert updated["state_bytes"] < begun["state_bytes"] / 20

    with lab.running("pool", parent.name, "--every", "60s") as pool:
        pool.wait_for("is full")
        (warm,) = (vm for vm in lab.vms().values() if vm["state"] == "warm")
        assert warm["warm"]["held_bytes"] > begun["state_bytes"]
        client.set("last-write", "before")
        forked, [child] = lab.fork(parent)
        client.set("last-write", "after")
        [made] = forked["children"]
        assert (made["was_warm"], made["name"], made["generation"]) == (True, warm["name"], 1)
        theirs = child.redis()
        assert theirs.get("last-write") == b"before"
        assert theirs.get("key:0") == b"written since"
        pool.wait_for("is warm")
        pool.process.send_signal(signal.SIGKILL)
        pool.ended()

    # The next command removes what the killed pool kept; the snapshot stays, and serves cold forks.
    cold, [second] = lab.fork(parent)
    assert not cold["children"][0]["was_warm"]
    assert cold["state_bytes"] < begun["state_bytes"] / 20
    assert second.redis().get("last-write") == b"after"
    family = [name for name in lab.vms() if f"{name}-".startswith(f"{parent.name}-")]
    assert sorted(family) == sorted((parent.name, child.name, second.name))
    print(f"ready after: warm {made['ready_s']} s, cold {cold['children'][0]['ready_s']} s")

    theirs.set("key:0", value(0))  # the one that is not as `fill` had it
    assert holds_every_key(theirs)
    lab.remove(parent, child, second)
    assert lab.leftovers() == []


def test_a_snapshot_that_is_dropped_leaves_nothing(lab: Lab, redis_parent: Vm) -> None:
    lab.run("snapshot", redis_parent.name)
    assert lab.run("snapshot", redis_parent.name, "--drop", "--json").data["dropped"]
    assert lab.leftovers() == []
    _, [child] = lab.fork(redis_parent)
    lab.remove(child)


@pytest.mark.slow
def test_many_updates_leave_no_growth(lab: Lab, redis_parent: Vm) -> None:
    """Guest memory held, and what is in the pool, after 100 updates."""
    kept = []
    for number in range(100):
        redis_parent.redis().set("number", number)
        kept.append(lab.run("snapshot", redis_parent.name, "--json").data["kept_bytes"])
    assert max(kept[50:]) <= 1.2 * max(kept[:50])
    lab.run("snapshot", redis_parent.name, "--drop")
