import pytest

from sevfork.errors import NameTaken, UsageError
from sevfork.lifecycle.naming import check_name, child_names


def test_children_are_numbered_as_virt_clone_numbers_clones() -> None:
    assert child_names("x", None, 3, set()) == ["x-fork", "x-fork1", "x-fork2"]


def test_default_names_skip_what_is_taken() -> None:
    assert child_names("x", None, 2, {"x-fork", "x-fork2"}) == ["x-fork1", "x-fork3"]


def test_default_names_always_fit() -> None:
    name, taken = "web", {"web"}
    for _ in range(40):
        (name,) = child_names(name, None, 1, taken)
        assert check_name(name) not in taken
        taken.add(name)
    many = child_names(name, None, 64, taken)
    assert len({check_name(each) for each in many} - taken) == 64


def test_a_name_that_was_asked_for_must_be_free() -> None:
    with pytest.raises(NameTaken):
        child_names("x", "web", 2, {"web1"})
    assert child_names("x", "web", 2, {"web1"}, replace=True) == ["web", "web1"]


def test_a_child_cannot_replace_its_parent() -> None:
    with pytest.raises(NameTaken):
        child_names("x", "x", 1, {"x"}, replace=True)


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "x" * 51, "\x1b[2J"])
def test_a_name_that_would_need_quoting_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        child_names("x", name or "-", 1, set())
