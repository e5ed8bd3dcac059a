"""The arena: where everything lies, that nothing alive shares a byte with anything else, what that does to the C."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from sgsc_micro import reference
from sgsc_micro.codegen import SANITIZERS, HostLibrary, to_stored, write_library
from sgsc_micro.codegen.host import WARNINGS
from sgsc_micro.passes import FuseQuantizedOps, FuseResidual, PruneChannels, SortChannels, optimise
from sgsc_micro.passes.graph import read_graph
from sgsc_micro.passes.operators import Add, Residual
from tests.graphs import GraphBuilder, Image, random_graph

SEEDS = st.integers(0, 2**32 - 1)

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
    module, x = random_graph(seed)
    library = tmp_path_factory.mktemp("graph") / "library"
    inputs = to_stored(write_library(optimise(module), library, "graph"), x)
    expected = reference.run_integers(module, x).reshape(len(x), -1)
    assert np.array_equal(HostLibrary(library, ("-O1", *SANITIZERS)).run(inputs), expected)
    assert np.array_equal(run_in_the_arena(library, inputs), expected)


class _Adding(GraphBuilder):
    """``conv(x)`` added to or subtracted from ``x``, in either order."""

    compute = relax.op.add
    swapped = False

    def adding(self, image: Image) -> Image:
        """A 3x3 convolution and the add."""
        channels = image[0].ty.shape[3]
        other = self._conv(image, int(channels), groups=1, depth=int(channels), same=True)
        pair = [self._dequantize(image), self._dequantize(other)]
        total = self.builder.emit(type(self).compute(*(reversed(pair) if self.swapped else pair)))
        return self._quantize(self._activation(total), 1.7 * max(image[1], other[1]), self._zero_point())


def fused(module: tvm.IRModule) -> tvm.IRModule:
    return tvm.transform.Sequential([FuseQuantizedOps(), PruneChannels(), SortChannels(), FuseResidual()])(module)


@pytest.mark.parametrize("rounding", ["single", "tflite"])
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("compute", [relax.op.add, relax.op.subtract])
def test_an_add_behind_a_convolution_becomes_its_end(
    compute: Callable[..., relax.Call], swapped: bool, rounding: str, tmp_path: Path
) -> None:
    kind = type("_Kind", (_Adding,), {"compute": staticmethod(compute), "swapped": swapped})
    module = kind(np.random.default_rng(5), rounding).build((5, 4, 3), ["conv", "adding", "adding"], [3, 8])
    x = np.random.default_rng(6).normal(0, 3, (4, 3, 5, 4)).astype(np.float32)
    expected = reference.run_integers(module, x)
    operators = [node.operator for node in read_graph(fused(module)).nodes]
    assert [operator.number for operator in operators if isinstance(operator, Residual)] == [int(not swapped)] * 2
    assert not any(isinstance(operator, Add) for operator in operators)
    assert np.array_equal(reference.run_integers(fused(module), x), expected)
    manifest = write_library(optimise(module), tmp_path, "graph")
    found = HostLibrary(tmp_path, ("-O1", *SANITIZERS)).run(to_stored(manifest, x))
    assert np.array_equal(found, expected.reshape(found.shape))


@given(seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_fusing_adds_keeps_every_output_byte(seed: int) -> None:
    rng = np.random.default_rng(seed)
    module = GraphBuilder(rng).build((4, 5, 3), ["residual", "conv", "residual", "twice", "residual"], [1, 8])
    x = rng.normal(0, 3, (2, 3, 4, 5)).astype(np.float32)
    assert np.array_equal(reference.run_integers(fused(module), x), reference.run_integers(module, x))


@pytest.mark.parametrize("body", [["conv", "twice"], ["conv", "broadcast"]])
def test_an_add_of_anything_else_stays(body: list[str]) -> None:
    for seed in range(20):
        graph = read_graph(fused(GraphBuilder(np.random.default_rng(seed)).build((5, 4, 3), body, [8])))
        for node in graph.nodes:
            if isinstance(node.operator, Residual):  # of a constant that is not broadcast
                assert graph.shapes[node.inputs[1]] == graph.shapes[node.output]
                assert node.inputs[1] in graph.constants
