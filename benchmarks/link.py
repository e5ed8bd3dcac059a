"""What the link makes of the line: the data bytes of a case as a share of the line rate, in virtual time.

    python -m benchmarks.link

The firmware's own app.c and link.c on a simulated line (tests/simulated_line.py): a USB adapter with a latency each
way, USB frames of 1 ms, a core at 16 MHz. A case is 30,000 bytes of input, 5 ms of network and 30,000 bytes of output.
Prints a Markdown table and writes benchmarks/results/link.json: rows of baud, latency_ms, window, share.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sgsc_micro.device import Device
from sgsc_micro.device.link import WINDOW
from sgsc_micro.files import write_json
from tests.dummy_library import write_library
from tests.host_device import HostDevice
from tests.simulated_line import SimulatedLine

RATES = (115_200, 921_600)
LATENCIES_MS = (1, 4, 16)
"""A USB adapter with its latency timer at 1 ms, as those on boards have it, at 4 ms, and at FTDI's default."""
CASE_BYTES = 30_000
RESULTS = Path(__file__).parent / "results" / "link.json"


def bulk_device(folder: Path) -> HostDevice:
    """A device whose network takes and gives ``CASE_BYTES``; its sources go into ``folder``."""
    return HostDevice(write_library(folder, size=CASE_BYTES, arena=CASE_BYTES, weights=CASE_BYTES))


def share(device: HostDevice, baud: int, latency_ms: float, window: int) -> float:
    """Data bytes of one case, both ways, over what a line of ``baud`` (8N1) carries in the time that the case takes."""
    line = SimulatedLine(device, baud=baud, latency=latency_ms / 1000)
    host = Device(line, baud=baud, window=window)
    host.hello()
    begin, data = line.now(), random.Random(0).randbytes(CASE_BYTES)
    assert host.run(0, data).output == device.library.expected(data)
    return 2 * CASE_BYTES * 10 / baud / (line.now() - begin)


def measure(device: HostDevice) -> list[dict[str, Any]]:
    """A row for each rate, latency and window; with a window of 1 every request waits for the answer before it."""
    return [
        {
            "baud": baud,
            "latency_ms": latency,
            "window": window,
            "share": round(share(device, baud, latency, window), 4),
        }
        for baud in RATES
        for latency in LATENCIES_MS
        for window in (1, WINDOW)
    ]


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Markdown: a line for each rate and latency."""
    lines = ["| baud | adapter's latency | one request in flight | a window of four |", "|---|---|---|---|"]
    found = {(row["baud"], row["latency_ms"], row["window"]): row["share"] for row in rows}
    for baud, latency in dict.fromkeys(key[:2] for key in found):
        shares = " | ".join(f"{found[baud, latency, window]:.1%}" for window in (1, WINDOW))
        lines.append(f"| {baud:,} | {latency} ms | {shares} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(bulk_device(Path(folder)))
    print(table(rows))
    write_json(RESULTS, rows)


if __name__ == "__main__":
    main()
