"""The simulated secure processor's part in a launch, and its answers while the guest runs.

It protects nothing. It hashes what libvirt is about to boot, as it lies in the storage pool, and
keeps that, HOST_DATA and a report id per boot with the domain: so a guest that was launched from
anything else gets evidence that says so.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable

from sevfork.domain.metadata import Metadata, ProcessorState
from sevfork.domain.spec import Boot
from sevfork.errors import NotAuthentic, WrongState
from sevfork.handshake.launch import LaunchConfig, launch_config_hash
from sevfork.simulated.launch_digest import simulated_launch_digest
from sevfork.simulated.paths import simulator_directory
from sevfork.simulated.processor import SimulatedProcessor
from sevfork.technology import Technology

_REPORT_DATA_SIZE = 64
_REPORT_ID_SIZE = 32

# SHA-384 of what lies at a path on the libvirt host.
Sha384Of = Callable[[str], bytes]
# Turns 64 bytes of report data into evidence.
SimulatedReport = Callable[[bytes], bytes]


def launched(
    sha384_of: Sha384Of, boot: Boot, *, vcpus: int, cpu_model: str, config: LaunchConfig
) -> ProcessorState:
    """Measure what is about to be booted, and make this boot's report id."""
    kernel, initrd = sha384_of(boot.kernel), sha384_of(boot.initrd)
    host_data = launch_config_hash(Technology.SIMULATED, config.encode())
    measurement = simulated_launch_digest(kernel, initrd, boot.cmdline.encode(), vcpus, cpu_model)
    return ProcessorState(measurement, host_data, secrets.token_bytes(_REPORT_ID_SIZE))


def simulated_report(metadata: Metadata) -> SimulatedReport | None:
    """What answers a guest's requests for evidence; None for guests that have the hardware."""
    if metadata.technology is not Technology.SIMULATED:
        return None
    if metadata.processor is None:
        raise WrongState("the simulated processor knows nothing of this VM's launch")
    state, processor = (
        metadata.processor,
        SimulatedProcessor.load_or_create(simulator_directory(os.environ)),
    )

    def report(report_data: bytes) -> bytes:
        if len(report_data) != _REPORT_DATA_SIZE:
            raise NotAuthentic("report data has 64 bytes")
        evidence = processor.report(
            state.measurement, state.host_data, state.report_id, report_data
        )
        return evidence.encode()

    return report
