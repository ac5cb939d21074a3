"""Where the time of a fork goes: its phases from ``--debug``, and a picture of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

# As ``lifecycle/progress.py`` logs them.
_LINE = re.compile(r"^\s*(\d+) ms sevfork\.lifecycle\.progress: (\S+), phase: (.+)$")
_PX_PER_S, _BAR_PX, _LEFT_PX, _TOP_PX = 40, 22, 190, 30
_COLOURS = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#bbbbbb")


@dataclass(frozen=True)
class Phase:
    """What one VM did from when to when, in seconds since the command began."""

    vm: str
    name: str
    start_s: float
    end_s: float


def phases(lines: Iterable[str], end_s: float) -> list[Phase]:
    """In the order in which they began; a VM's phase lasts until its next one."""
    open_phases: dict[str, tuple[str, float]] = {}
    found = []
    for line in lines:
        seen = _LINE.match(line)
        if not seen:
            continue
        at, vm, name = int(seen[1]) / 1000, seen[2], seen[3].strip()
        before = open_phases.get(vm)
        if before is not None and before[0] != name:
            found.append(Phase(vm, before[0], before[1], at))
        if before is None or before[0] != name:
            open_phases[vm] = (name, at)
    # The last word of each ("captured", "ready") is an end and no phase.
    return sorted(
        (phase for phase in found if phase.end_s <= end_s), key=lambda phase: phase.start_s
    )


def write_svg(path: Path, forks: Sequence[tuple[str, Sequence[Phase]]], note: str) -> None:
    """One row for each VM of each fork, a box a phase; ``note`` says what machine it was."""
    rows = [(title, vm) for title, found in forks for vm in dict.fromkeys(p.vm for p in found)]
    longest_s = max((phase.end_s for _, found in forks for phase in found), default=1.0)
    width, height = _LEFT_PX + longest_s * _PX_PER_S + 20, _TOP_PX + (len(rows) + 2) * 2 * _BAR_PX
    size = {"width": f"{width:.0f}", "height": f"{height:.0f}"}
    svg = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **size})
    _text(svg, 8, 18, note)
    for number, (title, vm) in enumerate(rows):
        top = _TOP_PX + number * 2 * _BAR_PX
        _text(svg, 8, top + 15, f"{title}: {vm}")
        found = dict(forks)[title]
        for phase in (phase for phase in found if phase.vm == vm):
            _box(svg, phase, top)
    _axis(svg, longest_s, _TOP_PX + len(rows) * 2 * _BAR_PX)
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(svg).write(path, encoding="utf-8", xml_declaration=True)


def _box(svg: ElementTree.Element, phase: Phase, top: float) -> None:
    left, width = _x(phase.start_s), max(1.0, (phase.end_s - phase.start_s) * _PX_PER_S)
    colour = _COLOURS[sum(phase.name.encode()) % len(_COLOURS)]
    place = {"x": f"{left:.1f}", "y": f"{top:.0f}", "width": f"{width:.1f}", "height": f"{_BAR_PX}"}
    box = ElementTree.SubElement(svg, "rect", {**place, "fill": colour})
    title = ElementTree.SubElement(box, "title")
    title.text = f"{phase.name}: {phase.end_s - phase.start_s:.2f} s"
    if width > 7 * len(phase.name):
        _text(svg, left + 3, top + 15, phase.name)


def _axis(svg: ElementTree.Element, longest_s: float, top: float) -> None:
    step = 5 if longest_s > 20 else 1
    for second in range(0, int(longest_s) + 1, step):
        _text(svg, _x(second), top + 10, f"{second} s")


def _text(svg: ElementTree.Element, x: float, y: float, text: str) -> None:
    style = {"font-family": "sans-serif", "font-size": "11"}
    element = ElementTree.SubElement(svg, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", **style})
    element.text = text


def _x(seconds: float) -> float:
    return _LEFT_PX + seconds * _PX_PER_S
