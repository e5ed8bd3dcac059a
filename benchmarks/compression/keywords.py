"""Keyword spotting: MLPerf Tiny's int8 DS-CNN, post-training. Half of kws01 is what the user has, half is T."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import tvm

from benchmarks.compression.data import FOLDER
from benchmarks.compression.measure import CONFIDENCE, Row, console, measured, metric, short
from sgsc_micro import preserve, reference
from sgsc_micro.codegen import footprint
from sgsc_micro.compress import compress_trained
from sgsc_micro.compress.layers import layers_of, with_constants
from sgsc_micro.compress.reconstruction import Reconstruction
from sgsc_micro.importers import from_tflite
from sgsc_micro.passes import optimise
from sgsc_micro.preserve import CaseSet
from sgsc_micro.project import PostTrainingConfig

HALF = 500
SHARES = (0.68, 0.58)
"""Of all constants at 8 bits: the weights, which are most of them, are then at about 61 % and 55 %."""
SCALE, ZERO_POINT = 0.58470290899276733, 83  # of the model's input


def rows(folder: Path) -> list[Row]:
    """As it came, every weight at 4 bits, and under the guard; what is preserved is all of the first half that the
    model gets right."""
    network = from_tflite(FOLDER / "tflite" / "kws_dscnn_int8.tflite")
    with np.load(FOLDER / "kws01.npz") as stored:
        inputs = ((stored["x"].astype(np.float64) - ZERO_POINT) * SCALE).astype(np.float32)
        labels = stored["y"].astype(np.int64)
    answers = reference.run(network, inputs)
    everything = CaseSet(np.arange(len(labels)).astype(str), inputs, labels, answers, "all")
    first, second = (everything.subset(np.arange(start, start + HALF)) for start in (0, HALF))
    twins = {int(b) - HALF for _, b in preserve.NearDuplicates(first).pairs(first, second)}
    test = second.subset(np.array([row for row in range(HALF) if row not in twins]))
    right = (first.reference.argmax(1) == first.labels).nonzero()[0]
    guarded = first.subset(right)

    def row(method: str, module: tvm.IRModule, began: float) -> Row:
        flips = [len(preserve.judge(cases, reference.run(module, cases.inputs)).flips) for cases in (guarded, test)]
        value = metric("accuracy", reference.run(module, test.inputs), test.labels)
        bound = preserve.upper_bound(flips[1], len(test), CONFIDENCE)  # T is no part of any choice
        minutes = (time.monotonic() - began) / 60
        return Row("keywords", method, "accuracy", value, *measured(module), *flips, bound, minutes, 0)

    found = [row("int8", network, time.monotonic())]
    began = time.monotonic()
    rebuilding = Reconstruction(network, first.inputs)
    widths = {layer.name: np.minimum(layer.constants.widths, 4) for layer in layers_of(network)}
    uniform = with_constants(network, rebuilding.rebuilt(widths, np.ones(HALF)))
    found.append(row("uniform 4 bits, post-training", uniform, began))
    for share in SHARES:
        began = time.monotonic()
        result = compress_trained(
            network,
            first.inputs,
            guarded,
            lambda module: footprint(optimise(module)),
            folder / f"keywords-{share:g}",
            PostTrainingConfig(share=share),
            progress=lambda line: console.log(f"keywords: {short(line)}"),
        )
        found.append(row(f"guarded, {share:.0%} of all", with_constants(network, result.constants), began))
    return found
