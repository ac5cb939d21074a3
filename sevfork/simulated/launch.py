"""The simulated secure processor's part in a launch, and its answers while the guest runs.

It protects nothing. It hashes what libvirt is about to boot, as it lies in the storage pool, and
keeps that, HOST_DATA and a report id per boot with the domain: so a guest that was launched from
anything else gets evidence that says so.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import PurePosixPath

from sevfork.attest.launch_digest import simulated_launch_digest
from sevfork.domain.metadata import Metadata, ProcessorState
from sevfork.domain.xml import Boot
from sevfork.errors import NotAuthentic, WrongState
from sevfork.handshake.launch import LaunchConfig, launch_config_hash
from sevfork.host.agent_client import SimulatedReport
from sevfork.host.hypervisor import Storage
from sevfork.image.paths import simulator_directory
from sevfork.simulated.processor import SimulatedProcessor
from sevfork.technology import Technology

_REPORT_DATA_SIZE = 64
_REPORT_ID_SIZE = 32


def launched(
    storage: Storage, boot: Boot, *, vcpus: int, cpu_model: str, config: LaunchConfig
) -> ProcessorState:
    """Measure what is about to be booted, and make this boot's report id."""
    kernel, initrd = (_sha384(storage, path) for path in (boot.kernel, boot.initrd))
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


def _sha384(storage: Storage, path: str) -> bytes:
    """Of a volume in the pool, wherever the pool is."""
    volume = storage.find(PurePosixPath(path).name)
    if volume is None or volume.path != path:
        raise WrongState(f"'{path}' is not a volume of the storage pool 'sevfork'")
    digest = hashlib.sha384()
    for piece in storage.download(volume.name, volume.size_bytes):
        digest.update(piece)
    return digest.digest()
