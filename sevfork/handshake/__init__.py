"""The fork handshake, version 1 (docs/handshake.md): bytes in, actions out."""

from sevfork.handshake.actions import (
    Action,
    Actions,
    Confirmed,
    EventReceived,
    HoldState,
    NeedEvidence,
    ReleaseState,
    Send,
)
from sevfork.handshake.child import ChildSession
from sevfork.handshake.events import exit_detail, returncode_of
from sevfork.handshake.instance import InstanceKey
from sevfork.handshake.lineage import ForkCertificate, Lineage, OwnerCertificate, owner_digest
from sevfork.handshake.manifest import Layer, Manifest, manifest_digest
from sevfork.handshake.messages import EventKind
from sevfork.handshake.own_launch import OwnLaunch, Verifier
from sevfork.handshake.owner_signature import Signer
from sevfork.handshake.parent import ParentSession
from sevfork.handshake.slot import Slot
from sevfork.handshake.token import Allowance, OwnerToken
from sevfork.handshake.token_gate import TokenGate, on_chips
from sevfork.handshake.transcript import attest_report_data

__all__ = [
    "Action",
    "Actions",
    "Allowance",
    "ForkCertificate",
    "ChildSession",
    "Confirmed",
    "EventKind",
    "EventReceived",
    "HoldState",
    "InstanceKey",
    "Layer",
    "Lineage",
    "Manifest",
    "NeedEvidence",
    "OwnLaunch",
    "OwnerCertificate",
    "OwnerToken",
    "ParentSession",
    "ReleaseState",
    "Send",
    "Signer",
    "Slot",
    "TokenGate",
    "Verifier",
    "attest_report_data",
    "exit_detail",
    "manifest_digest",
    "on_chips",
    "owner_digest",
    "returncode_of",
]
