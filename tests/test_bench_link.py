"""Behind `make bench-link`: what the link must make of the line, in virtual time; the figures that are published."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import link
from sgsc_micro.device.link import WINDOW
from sgsc_micro.files import read_json
from tests.host_device import HostDevice


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> HostDevice:
    return link.bulk_device(tmp_path_factory.mktemp("bulk"))


@pytest.mark.parametrize("baud", link.RATES)
@pytest.mark.parametrize("latency", [1, 4])
def test_the_link_makes_four_fifths_of_the_line_or_more(device: HostDevice, baud: int, latency: int) -> None:
    assert 0.8 <= link.share(device, baud, latency, WINDOW) < 1


def test_the_published_figures_are_those_of_this_code(device: HostDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = read_json(link.RESULTS)
    monkeypatch.setattr(link, "LATENCIES_MS", (4,))
    published = {(row["baud"], row["window"]): row["share"] for row in kept if row["latency_ms"] == 4}
    measured = {(row["baud"], row["window"]): row["share"] for row in link.measure(device)}
    assert measured == pytest.approx(published, abs=0.003)  # a USB frame more or less, by the first sequence number
    text = (Path(__file__).parent.parent / "docs" / "link.md").read_text(encoding="utf-8")
    assert link.table(kept) in text
