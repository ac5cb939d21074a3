"""The agent of one guest: ``python3 -m sevfork.agent``, started by the image's init."""

from __future__ import annotations

import itertools
import logging
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from sevfork.agent import network, unexpected
from sevfork.agent.agent import Agent
from sevfork.agent.container.container import STATE, Container
from sevfork.agent.container.output import Output
from sevfork.agent.criu.engine import CriuEngine
from sevfork.agent.criu.version import require_version
from sevfork.agent.evidence.provider import EvidenceProvider
from sevfork.agent.image_technology import TECHNOLOGY
from sevfork.agent.link import PORT, Link
from sevfork.agent.machine import Guest
from sevfork.agent.measured import read_measured
from sevfork.agent.serve import serve
from sevfork.errors import SevforkError
from sevfork.handshake import InstanceKey
from sevfork.technology import Technology

log = logging.getLogger("sevfork.agent")

RESTORING = STATE / "restoring"
SYSRQ = Path("/proc/sysrq-trigger")
OOM_SCORE = Path("/proc/self/oom_score_adj")
_LAST_WORDS_S = 0.5
_POWER_OFF_S = 5.0


def main() -> None:
    # The serial console: what stands here, the host reads.
    logging.basicConfig(level=logging.INFO, format="sevfork: %(message)s", stream=sys.stderr)
    unexpected.hide_messages()
    # When memory runs out the workload ends, not the agent nor a CRIU that is at work in it.
    OOM_SCORE.write_text("-1000")
    give_up_what_was_half_restored()
    refuse_an_old_criu()
    measured = read_measured()
    key = InstanceKey()
    # A host name of this instance's own, so that logs of parent and child can be told apart.
    socket.sethostname(f"sevfork-{key.instance_id.hex()[:8]}")
    network.loopback_up()
    output = None if measured.workload.logs == "none" else Output(STATE)
    container = Container(measured.workload, lower=measured.container_root, output=output)
    with Link(PORT) as link:
        provider = evidence_provider(measured.technology, link)
        engine = CriuEngine(container)
        engine.clear()
        agent = Agent(measured, key, provider, container, engine, Guest(RESTORING))
        log.info("agent ready, technology: %s", measured.technology.label)
        serve(link, agent.handle, power_off, agent.forget_expired)


def evidence_provider(technology: Technology, link: Link) -> EvidenceProvider:
    """The one that the image was built for; the others are not even looked at."""
    if TECHNOLOGY == "simulated":
        from sevfork.agent.evidence.simulated import SimulatedProvider

        return SimulatedProvider(link.exchange)
    from sevfork.agent.evidence.select import hardware_provider

    return hardware_provider(technology)


def give_up_what_was_half_restored() -> None:
    """An agent before this one ended in the middle of a restore: its VM must not go on."""
    if RESTORING.exists():
        log.error("switching off: the agent ended in the middle of a restore")
        power_off()


def refuse_an_old_criu() -> None:
    """Whoever withholds packages while an image is built can make it one with an older CRIU."""
    try:
        require_version()
    except SevforkError as exc:
        log.error("switching off: %s", exc)
        power_off()


def power_off() -> NoReturn:
    """There is nothing to save in a VM that must not go on; nothing here gives up before it is off.

    By the kernel's sysrq: 'o' switches off, 'b' resets, which ends a domain as well. The host gets
    a moment to take the last words from the ports, which cannot be flushed.
    """
    time.sleep(_LAST_WORDS_S)
    for command in itertools.cycle("ob"):
        with suppress(OSError):
            SYSRQ.write_text(command)
        time.sleep(_POWER_OFF_S)
    raise AssertionError("a cycle has no end")


if __name__ == "__main__":
    main()
