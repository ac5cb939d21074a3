"""The agent of one guest: ``python3 -m sevfork.agent``, started by the image's init."""

from __future__ import annotations

import logging
import socket
import sys
from pathlib import Path

from sevfork.agent import network
from sevfork.agent.agent import Agent
from sevfork.agent.built import TECHNOLOGY
from sevfork.agent.container import Container
from sevfork.agent.criu import CriuEngine
from sevfork.agent.evidence.provider import EvidenceProvider
from sevfork.agent.link import PORT, Link
from sevfork.agent.measured import read_measured
from sevfork.agent.serve import serve
from sevfork.handshake import InstanceKey
from sevfork.model import Technology

log = logging.getLogger("sevfork.agent")


def main() -> None:
    # The serial console: what stands here, the host reads.
    logging.basicConfig(level=logging.INFO, format="sevfork: %(message)s", stream=sys.stderr)
    measured = read_measured()
    key = InstanceKey()
    # A host name of this instance's own, so that logs of parent and child can be told apart.
    socket.sethostname(f"sevfork-{key.instance_id.hex()[:8]}")
    network.loopback_up()
    container = Container(measured.workload)
    with Link(PORT) as link:
        provider = evidence_provider(measured.technology, link)
        engine = CriuEngine(container)
        agent = Agent(measured, key, provider, container, engine, network.link_up)
        log.info("agent ready, technology: %s", measured.technology.label)
        serve(link, agent.handle, power_off, agent.forget_expired)


def evidence_provider(technology: Technology, link: Link) -> EvidenceProvider:
    """The one that the image was built for; the others are not even looked at."""
    if TECHNOLOGY == "simulated":
        from sevfork.agent.evidence.simulated import SimulatedProvider

        return SimulatedProvider(link.exchange)
    from sevfork.agent.evidence.select import hardware_provider

    return hardware_provider(technology)


def power_off() -> None:
    """At once: there is nothing to save in a VM that must not go on. Kernel: sysrq 'o'."""
    Path("/proc/sysrq-trigger").write_text("o")


if __name__ == "__main__":
    main()
