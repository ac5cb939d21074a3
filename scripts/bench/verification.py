"""How long one SNP verification takes, warm, next to ``openssl`` doing the same signatures.

Both are measured in this one run. The signatures of a report and its chain are three of RSA-4096
(ARK, ASK, leaf) and one of ECDSA P-384; ``openssl speed`` says what those cost by themselves.
"""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from scripts.bench.figures import Row
from sevfork.attest.defaults import SIMULATED_MINIMUM, policy_toml
from sevfork.attest.policy import Policy
from sevfork.attest.verify import Expected, verify
from sevfork.process import run
from sevfork.simulated.processor import SimulatedProcessor
from sevfork.technology import Technology

REPORT_DATA = bytes(64)
_RUNS, _SECONDS = 500, 2


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as scratch:
        measured = times_ms(prepared(Path(scratch)), _RUNS)
    yield Row(
        part="g",
        what="one verification, median",
        value=statistics.median(measured),
        unit="ms",
        peer="openssl speed, the same signatures",
        peer_value=openssl_ms(_SECONDS),
        note=f"99 of 100 within {statistics.quantiles(measured, n=100)[98]:.2f} ms",
    )


def prepared(directory: Path) -> Callable[[], object]:
    """One verification, ready to be called again and again."""
    processor = SimulatedProcessor.load_or_create(directory)
    evidence = processor.report(bytes(48), bytes(32), bytes(32), REPORT_DATA)
    now = datetime.now(UTC)
    roots = [processor.root_fingerprint]
    text = policy_toml([Technology.SIMULATED], roots, now, minimum_tcb=SIMULATED_MINIMUM)
    policy, expected = Policy.decode(text.encode()), Expected(REPORT_DATA)
    return lambda: verify(evidence, policy, expected, now)


def times_ms(action: Callable[[], object], count: int) -> list[float]:
    """Each run by itself; the first ten only warm up."""
    for _ in range(10):
        action()
    measured = []
    for _ in range(count):
        start = time.perf_counter()
        action()
        measured.append(1000 * (time.perf_counter() - start))
    return measured


def openssl_ms(seconds: int) -> float:
    """What the four signatures cost ``openssl``, from its verifications per second."""
    argv = ["openssl", "speed", "-seconds", str(seconds), "rsa4096", "ecdsap384"]
    text = run(argv, timeout_s=60 + 8 * seconds).stdout
    rsa = re.search(r"(?m)^rsa 4096 bits.*?([0-9.]+)$", text)
    ecdsa = re.search(r"(?m)^\s*384 bits ecdsa.*?([0-9.]+)$", text)
    if rsa is None or ecdsa is None:
        raise SystemExit(f"openssl speed printed nothing to go by:\n{text}")
    return 1000 * (3 / float(rsa[1]) + 1 / float(ecdsa[1]))
