"""Services exactly as Debian ships them, no variable set and no option given, forked under load."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.vm.lab import Lab, Vm


@contextmanager
def load(vm: Vm, path: str) -> Iterator[list[int]]:
    """Two clients that never stop asking; the statuses that they got."""
    enough, statuses = threading.Event(), list[int]()

    def ask() -> None:
        while not enough.is_set():
            statuses.append(vm.get(path)[0])

    clients = [threading.Thread(target=ask, daemon=True) for _ in range(2)]
    for client in clients:
        client.start()
    try:
        yield statuses
    finally:
        enough.set()
        for client in clients:
            client.join(90)


def state(vm: Vm) -> int:
    """How much the service has counted, or 0 when it counts nothing."""
    status, body = vm.get("/")
    assert status == 200
    told = json.loads(body) if body.startswith(b"{") else {}
    return int(told.get("count", told.get("rows", 0)))


@pytest.mark.parametrize("workload", ["node", "nginx", "mariadb"])
def test_forked_under_load_in_two_generations(lab: Lab, workload: str) -> None:
    parent = lab.up(workload)
    states = [[state(parent) for _ in range(10)][-1]]
    with load(parent, "/") as statuses:
        _, [child] = lab.fork(parent)
    states.append(state(child))
    with load(child, "/"):
        _, [grandchild] = lab.fork(child)
    states.append(state(grandchild))
    assert len(statuses) > 5
    assert set(statuses) == {200}, "the parent did not answer all the while"
    assert states == sorted(states), "a child counts from an earlier state than its parent's"
    assert state(parent) >= states[0]
    lab.remove(parent, child, grandchild)
