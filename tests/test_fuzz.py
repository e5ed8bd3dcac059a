"""A share of ``make fuzz``, and that it finds what is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("tflite_micro", reason="the oracle tflite-micro is not installed")

from sgsc_micro.codegen import HostLibrary
from tests import fuzz

FIRST = 1_000_001
"""Of the seeds here: others than ``make fuzz`` begins with; not a multiple of those that are emulated."""


def _all_well(results: Sequence[fuzz.Result]) -> None:
    assert not [result for result in results if result.fault]


@pytest.mark.parametrize("source", fuzz.SOURCES)
def test_drawn_networks_give_the_same_bytes_everywhere(source: str) -> None:
    _all_well([fuzz.check_drawn(source, seed) for seed in range(FIRST, FIRST + 6)])


def test_damaged_files_end_in_an_error_or_a_right_answer() -> None:
    results = [fuzz.check_bytes(seed) for seed in range(FIRST, FIRST + 40)]
    _all_well(results)
    assert {result.outcome for result in results} >= {"refused", "right"}


@pytest.mark.slow
@pytest.mark.parametrize("source", fuzz.SOURCES)
def test_many_drawn_networks_give_the_same_bytes_everywhere(source: str) -> None:
    _all_well([fuzz.check_drawn(source, seed) for seed in range(2 * FIRST, 2 * FIRST + 15)])


@pytest.mark.slow
def test_many_damaged_files_end_in_an_error_or_a_right_answer() -> None:
    _all_well([fuzz.check_bytes(seed) for seed in range(2 * FIRST, 2 * FIRST + 300)])


def test_a_wrong_byte_is_found_and_its_network_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that answers softmaxes wrong: what is left of the network that shows it is the softmax."""
    run = HostLibrary.run

    def wrong(library: HostLibrary, inputs: np.ndarray) -> np.ndarray:
        softmaxes = [layer for layer in library.manifest["layers"] if layer["kind"] == "Softmax"]
        return run(library, inputs) ^ np.int8(bool(softmaxes))

    monkeypatch.setattr(HostLibrary, "run", wrong)
    draw, _ = fuzz.SOURCES["graph"]
    seed = next(seed for seed in range(FIRST, FIRST + 999) if "softmax" in draw(seed)[:-1] and len(draw(seed)) > 2)
    found = fuzz.check_drawn("graph", seed)
    assert found.outcome == "wrong" and found.kinds == ("softmax",) and "differs from the reference" in found.fault
