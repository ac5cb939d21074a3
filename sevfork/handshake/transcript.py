"""What is hashed, and under which label. No caller's bytes reach report data unhashed."""

from __future__ import annotations

import hashlib

from sevfork.handshake.instance import InstanceKey, check_signature
from sevfork.wire.lp import lp

_JOIN_LABEL = b"sevfork/1 join"


def transcript_1(offer: bytes, join_core: bytes) -> bytes:
    """T1 over the exact OFFER and JOIN.core."""
    return hashlib.sha384(lp(b"sevfork/1 T1", offer, join_core)).digest()


def transcript_2(t1: bytes, join_evidence: bytes, grant_evidence: bytes) -> bytes:
    """T2: T1 and both sides' exact evidence."""
    return hashlib.sha384(lp(b"sevfork/1 T2", t1, join_evidence, grant_evidence)).digest()


def join_signature(instance: InstanceKey, t1: bytes) -> bytes:
    """64 bytes: the child holds the instance key that its JOIN names."""
    return instance.sign(_JOIN_LABEL, t1)


def check_join_signature(instance_key: bytes, t1: bytes, signature: bytes) -> None:
    """Raise NotAuthentic unless whoever made the JOIN holds the instance key that it names."""
    check_signature(instance_key, _JOIN_LABEL, t1, signature)


def transcript_3(t2: bytes, call: bytes, answer_core: bytes) -> bytes:
    """T3: T2, and the exact CALL and ANSWER.core."""
    return hashlib.sha384(lp(b"sevfork/1 T3", t2, call, answer_core)).digest()


def transcript_4(t3: bytes, answer_evidence: bytes) -> bytes:
    """T4: T3 and the warm child's exact evidence."""
    return hashlib.sha384(lp(b"sevfork/1 T4", t3, answer_evidence)).digest()


def child_report_data(t1: bytes) -> bytes:
    """The 64 bytes that the child's hardware signs."""
    return _report_data(b"sevfork/1 child", t1)


def parent_report_data(t1: bytes, join_evidence: bytes) -> bytes:
    """The 64 bytes that the parent's hardware signs: it has seen, and answers, that evidence."""
    return _report_data(b"sevfork/1 parent", t1, hashlib.sha384(join_evidence).digest())


def answer_report_data(t3: bytes) -> bytes:
    """The 64 bytes that a warm child's hardware signs when it is called."""
    return _report_data(b"sevfork/1 answer", t3)


def attest_report_data(nonce: bytes, claims: bytes) -> bytes:
    """The 64 bytes for ``sevfork attest``; can never be those of a child or a parent."""
    return _report_data(b"sevfork/1 attest", nonce, claims)


def _report_data(label: bytes, *parts: bytes) -> bytes:
    return hashlib.sha512(lp(label, *parts)).digest()
