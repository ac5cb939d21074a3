"""This host's microcode and SNP firmware beside the minimum TCBs that guests insist on.

What is compared is what the host says of itself, for its own admin: a guest's report is what others
believe. A comparison that cannot be made says so and why.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sevfork.attest.snp.report import Product, Tcb
from sevfork.attest.vendor_facts import Floor, Silicon, vendor_facts
from sevfork.errors import AttestationFailed
from sevfork.host.amd_processor import AMD, INTEL, Processor, SnpPlatform
from sevfork.lifecycle.finding import Finding, Standing

SUBJECT = "minimum TCB"
_ASK_A_GUEST = "run 'sevfork doctor' as root, or ask a guest: 'sevfork attest VM'"


@dataclass(frozen=True)
class _Levels:
    """Security patch levels; ``snp`` is None where the firmware was not asked, for a reason."""

    microcode: int
    snp: int | None
    firmware: str


def tcb_finding(processor: Processor | None, ask: Callable[[], SnpPlatform]) -> Finding:
    """``ask`` may raise OSError: it takes root, and a kernel that knows SEV-SNP."""
    if processor is None:
        return not_compared("/proc/cpuinfo does not say which processor this is")
    if processor.vendor == INTEL:
        why = "only a guest's quote, with Intel's collateral, says how old a TDX platform is"
        return not_compared(why, "'sevfork attest VM --certs PATH' on a host with TDX")
    silicon = vendor_facts().silicon_of(processor.cpuid) if processor.vendor == AMD else None
    if silicon is None:
        return not_compared(f"no figure is known for {processor.cpuid}, {processor.vendor}")
    return _compared(silicon, _levels(processor, silicon, ask))


def not_compared(why: str, remedy: str | None = None) -> Finding:
    return Finding(SUBJECT, Standing.LIMITED, f"not compared: {why}", remedy)


def _levels(processor: Processor, silicon: Silicon, ask: Callable[[], SnpPlatform]) -> _Levels:
    """What reports will say, where the secure processor tells; else what the kernel runs with."""
    try:
        platform = ask()
        tcb = Tcb.decode(platform.reported_tcb, Product(silicon.product))
    except OSError as exc:
        why = os.strerror(exc.errno) if exc.errno else str(exc)
        return _Levels(processor.microcode_svn, None, f"SNP firmware not asked: {why.lower()}")
    except AttestationFailed as exc:
        return _Levels(processor.microcode_svn, None, f"SNP firmware not understood: {exc.message}")
    return _Levels(tcb.microcode, tcb.snp, f"SNP {tcb.snp:#04x} (firmware {platform.firmware})")


def _compared(silicon: Silicon, levels: _Levels) -> Finding:
    floors = vendor_facts().floors_of(silicon.cpuid)
    missed = [floor for floor in floors if not floor.met_by(levels.snp, levels.microcode)]
    found = f"{silicon.name}: microcode {levels.microcode:#04x}, {levels.firmware}"
    if any(floor.required for floor in missed):
        remedy = f"guests refuse this host: update BIOS, microcode, SNP firmware. {_of(missed)}"
    elif missed:
        remedy = f"guests of images built with '--tcb newest' refuse this host. {_of(missed)}"
    elif levels.snp is None:
        remedy = _ASK_A_GUEST
    else:
        return Finding(SUBJECT, Standing.OK, f"{found}: the newest known")
    return Finding(SUBJECT, Standing.LIMITED, found, remedy)


def _of(missed: Iterable[Floor]) -> str:
    """Which bulletins are not mended, and what each is about."""
    names = dict.fromkeys(floor.bulletin for floor in missed)
    each = (f"{name}: {vendor_facts().bulletin(name).fixes}" for name in names)
    return f"Not mended: {'; '.join(each)}"
