"""Workloads of other kinds: several processes, an expensive start, and one CRIU refuses."""

from __future__ import annotations

import hashlib

from tests.vm.lab import Lab


def test_gunicorn_with_its_workers(lab: Lab) -> None:
    parent = lab.up("gunicorn")
    for _ in range(20):
        before = parent.json("/")
    _, [child] = lab.fork(parent)
    answers = [child.json("/") for _ in range(30)]
    assert answers[0]["requests"] == before["requests"] + 1
    assert len({answer["worker"] for answer in answers}) > 1, "only one worker answers"
    assert parent.json("/")["requests"] == before["requests"] + 1
    lab.remove(parent, child)


def test_a_warm_python_service_is_warm_in_the_child(lab: Lab) -> None:
    parent = lab.up("warmup")
    before = parent.json("/status")
    forked, [child] = lab.fork(parent)
    after = child.json("/status")
    # The child has not warmed up again: it says the same of its start, and goes on counting.
    assert (after["warm_up_s"], after["pid"]) == (before["warm_up_s"], before["pid"])
    assert after["requests"] == before["requests"] + 1
    wanted = hashlib.shake_256(b"4711").digest(1024)
    assert child.get("/lookup/4711") == (200, wanted)
    print(f"warm-up {before['warm_up_s']} s, pause {forked['pause_ms']:.0f} ms")
    lab.remove(parent, child)


def test_a_workload_that_criu_cannot_dump_is_refused_in_words(lab: Lab) -> None:
    parent = lab.up("io-uring")
    failed = lab.run("fork", parent.name, check=False)
    assert failed.returncode == 23, failed.stderr
    assert "io_uring" in failed.stderr
    assert parent.get("/")[0] == 200
    lab.remove(parent)
