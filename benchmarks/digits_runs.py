"""The digits example compressed again and again, as the benchmarks that compare ways to do it need it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from sgsc_micro import preserve, reference
from sgsc_micro.codegen import footprint
from sgsc_micro.compress import CompressionResult, compress
from sgsc_micro.importers import load_torch
from sgsc_micro.passes import optimise
from sgsc_micro.pipeline import Build
from sgsc_micro.preserve import CaseSet
from sgsc_micro.project import CompressionConfig
from sgsc_micro.sources import TORCH_NETWORK


def compress_digits(
    build: Build, config: CompressionConfig, **options: Any
) -> tuple[CompressionResult, CaseSet, np.ndarray]:
    """Compress what ``build``, run as far as ``preserve``, left; ``options`` are those of ``compress``.

    The result, the held-out cases (C and T), and the result's outputs for them, float32 [N, classes].
    """
    sets = {part: preserve.load(build.shared / "preserve" / f"{part}.npz") for part in "PCT"}
    train = build.cases_of("train")
    free = train.subset(~np.isin(train.ids, sets["P"].ids))
    with tempfile.TemporaryDirectory() as folder:
        result = compress(
            load_torch(build.shared / "reference" / TORCH_NETWORK),
            free.inputs,
            free.labels,
            sets["P"],
            lambda module: footprint(optimise(module)),
            Path(folder),
            config,
            **options,
        )
    held_out = preserve.merge([sets["C"], sets["T"]])
    return result, held_out, reference.run(result.module, held_out.inputs)
