"""Kernel objects of a service that is not root, each in parent, child and grandchild."""

from __future__ import annotations

from tests.vm.lab import Lab


def test_every_kernel_object_is_the_same_in_child_and_grandchild(lab: Lab) -> None:
    parent = lab.up("objects")
    before = parent.json("/")
    assert before["pipe opened again"] == "opened"
    _, [child] = lab.fork(parent)
    _, [grandchild] = lab.fork(child)
    assert child.json("/") == before
    assert grandchild.json("/") == before
    assert parent.json("/") == before
    lab.remove(parent, child, grandchild)
