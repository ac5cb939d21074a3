"""The simulated processor's answer, as the guest takes it."""

from __future__ import annotations

import pytest

from sevfork.agent.evidence.simulated import SimulatedProvider
from sevfork.attest.evidence import Evidence
from sevfork.errors import AttestationFailed
from sevfork.technology import Technology
from sevfork.wire.lines import Frame
from sevfork.wire.simulated import SIMULATED_EVIDENCE


def answering(payload: bytes) -> SimulatedProvider:
    return SimulatedProvider(lambda frame, timeout_s: Frame(frame.kind, frame.request_id, payload))


def test_report_data_goes_to_the_host_in_a_frame_of_its_own_kind() -> None:
    asked: list[Frame] = []
    evidence = Evidence(Technology.SIMULATED, b"report", b"")

    def exchange(frame: Frame, timeout_s: float) -> Frame:
        asked.append(frame)
        return Frame(frame.kind, frame.request_id, evidence.encode())

    assert SimulatedProvider(exchange).evidence(b"d" * 64) == evidence
    assert [(frame.kind, frame.payload) for frame in asked] == [(SIMULATED_EVIDENCE, b"d" * 64)]


@pytest.mark.parametrize("technology", [Technology.SEV_SNP, Technology.TDX])
def test_a_host_that_answers_with_evidence_of_hardware_is_refused(technology: Technology) -> None:
    """However genuine: this image was built for the simulator, and its peers are."""
    genuine = Evidence(technology, b"report", b"").encode()
    with pytest.raises(AttestationFailed, match="other evidence"):
        answering(genuine).evidence(bytes(64))


@pytest.mark.parametrize("payload", [b"", b"\x01", bytes(100)])
def test_an_answer_that_is_no_evidence_is_refused(payload: bytes) -> None:
    with pytest.raises(AttestationFailed):
        answering(payload).evidence(bytes(64))
