"""The arena: where everything lies, that nothing alive shares a byte with anything else, and what that does to the C."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from sgsc_micro import reference
from sgsc_micro.codegen import SANITIZERS, HostLibrary, to_stored, write_library
from sgsc_micro.codegen.host import WARNINGS
from sgsc_micro.passes import optimise
from tests.graphs import GraphBuilder

SEEDS = st.integers(0, 2**32 - 1)
KINDS = ["conv", "depthwise", "rows", "residual", "twice", "requantize", "lookup", "max_pool", "permute", "softmax"]

IN_THE_ARENA = """
#include <stdio.h>
#include "model.h"
int main(void)
{
    while (fread(MODEL_INPUT, 1, MODEL_INPUT_BYTES, stdin) == MODEL_INPUT_BYTES) {
        model_run(MODEL_INPUT, MODEL_OUTPUT);
        fwrite(MODEL_OUTPUT, 1, MODEL_OUTPUT_BYTES, stdout);
    }
    return 0;
}
"""


def drawn(seed: int) -> tuple[tvm.IRModule, np.ndarray]:
    """A network and int8 inputs as stored."""
    rng = np.random.default_rng(seed)
    body = [str(kind) for kind in rng.choice(KINDS, int(rng.integers(1, 6)))]
    module = GraphBuilder(rng).build((5, 4, 3), body, list(range(9)))
    return module, rng.integers(-128, 128, (3, 60)).astype(np.int8)


def run_in_the_arena(library: Path, inputs: np.ndarray) -> np.ndarray:
    """Outputs of a program whose only buffers are MODEL_INPUT and MODEL_OUTPUT."""
    program = library.parent / "in_the_arena"
    program.with_suffix(".c").write_text(IN_THE_ARENA)
    sources = [program.with_suffix(".c"), library / "model.c", library / "weights.c"]
    subprocess.run(["cc", *WARNINGS, *SANITIZERS, "-O1", f"-I{library}", *sources, "-o", program], check=True)
    output = subprocess.run([program], input=inputs.tobytes(), capture_output=True, check=True).stdout
    return np.frombuffer(output, np.int8).reshape(len(inputs), -1)


@given(seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_buffers_in_the_arena_and_the_callers_own_give_the_same(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    module, inputs = drawn(seed)
    library = tmp_path_factory.mktemp("graph") / "library"
    write_library(optimise(module), library, "graph")
    own = HostLibrary(library, ("-O1", *SANITIZERS)).run(inputs)
    assert np.array_equal(run_in_the_arena(library, inputs), own)
