"""The files that an owner and an operator hand each other: JSON, bytes in base64 (docs/owner.md).

None of them is secret, and none is trusted: what counts in them is signed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

import msgspec
from msgspec import Meta

from sevfork.errors import UsageError
from sevfork.image.files import write_whole
from sevfork.verifier.statement import Complete, Statement

# A lineage of 255 forks, and evidence with a full certificate table for each.
_LIMIT_BYTES = 48 * 2**20
_LINEAGE_LIMIT_BYTES = 64 * 1024
Name = Annotated[str, Meta(max_length=200)]


class Document(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", kw_only=True
):
    """``kind`` says which document it is; ``vm`` is what the operator calls the VM."""

    schema: Literal[1] = 1
    vm: Name

    def write(self, path: Path) -> None:
        """Raises UsageError where the file cannot be written."""
        text = msgspec.json.format(msgspec.json.encode(self), indent=2)
        write_whole(path, text + b"\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises UsageError for anything but one such document."""
        try:
            with path.open("rb") as file:
                return cls.decode(file.read(_LIMIT_BYTES))
        except OSError as exc:
            raise UsageError(f"'{path}' cannot be read: {exc.strerror}") from exc

    @classmethod
    def decode(cls, data: bytes) -> Self:
        try:
            return msgspec.json.decode(data, type=cls)
        except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
            kind = cls.__struct_config__.tag
            raise UsageError(f"this is no document of the kind '{kind}': {exc}") from exc


class AdoptionRequest(Document, frozen=True, tag="sevfork adoption request"):
    """From the operator: a root, and its evidence over a nonce."""

    statement: Statement


class AdoptionReply(Document, frozen=True, tag="sevfork adoption reply"):
    """From the owner: the certificate for this root."""

    certificate: Annotated[bytes, Meta(max_length=1024)]


class NamedStatement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One VM of a descent, by the name that the operator gives it."""

    vm: Name
    statement: Statement


class SavedLineage(Document, frozen=True, tag="sevfork lineage"):
    """A VM's encoded lineage, and the evidence of those in it that were asked: its own first."""

    lineage: Annotated[bytes, Meta(max_length=_LINEAGE_LIMIT_BYTES)]
    statements: Annotated[tuple[NamedStatement, ...], Meta(max_length=256)] = ()

    def completed(self, complete: Complete) -> Self:
        """With certificates that the evidence came without."""
        statements = tuple(
            NamedStatement(each.vm, each.statement.completed(complete)) for each in self.statements
        )
        return msgspec.structs.replace(self, statements=statements)
