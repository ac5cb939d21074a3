"""What a VM is launched as: the configuration that its processor signs, and its measurement."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import replace

from sevfork.domain.spec import GuestSpec
from sevfork.handshake.launch import LaunchConfig, Role, launch_config_hash
from sevfork.handshake.messages import Offer
from sevfork.host import image_volumes
from sevfork.host.hypervisor import Storage
from sevfork.simulated.launch import launched


def root_config(owner: bytes | None) -> LaunchConfig:
    """The launch configuration of a VM that is forked from none; its owner by digest, if any."""
    return LaunchConfig(Role.ROOT, owner)


def child_config(offer: bytes) -> LaunchConfig:
    """The launch configuration of the one child that an OFFER is for; the owner is the parent's."""
    owner = LaunchConfig.decode(Offer.decode(offer).launch_config).owner
    return LaunchConfig(Role.CHILD, owner, hashlib.sha384(offer).digest())


def launched_as(storage: Storage, spec: GuestSpec, config: LaunchConfig) -> GuestSpec:
    """The domain with the launch configuration that its processor is to sign.

    Hardware measures it when it starts; the simulated processor does it here, from the volumes.
    """
    if spec.hardware is not None:
        config_hash = launch_config_hash(spec.metadata.technology, config.encode())
        return replace(spec, hardware=spec.hardware.with_config_hash(config_hash))
    state = launched(
        functools.partial(image_volumes.sha384, storage),
        spec.boot,
        vcpus=spec.vcpus,
        cpu_model=spec.metadata.cpu_model,
        config=config,
    )
    return replace(spec, metadata=replace(spec.metadata, processor=state))
