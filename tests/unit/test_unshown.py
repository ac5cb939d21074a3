"""What holds a key shows nothing of it, in whatever it is shown as a part."""

from __future__ import annotations

from msgspec import Struct

from sevfork.unshown import Unshown


class Key(Unshown, Struct, frozen=True):
    secret: bytes


class Holder(Struct, frozen=True):
    name: str
    key: Key


def test_no_field_is_in_the_repr() -> None:
    assert repr(Key(b"secret")) == "Key(...)"


def test_no_field_is_in_the_repr_of_what_holds_it() -> None:
    assert repr(Holder("web", Key(b"secret"))) == "Holder(name='web', key=Key(...))"


def test_it_is_data_all_the_same() -> None:
    assert Key(b"secret") == Key(b"secret") != Key(b"other")
