"""The arena: where everything lies, that nothing alive shares a byte with anything else, what that does to the C."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
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
from sgsc_micro.passes.graph import Graph, read_graph
from sgsc_micro.passes.operators import Add, Reshape, Residual
from sgsc_micro.passes.plan import Plan, Resident, read_plan
from sgsc_micro.passes.plan import plan as planned
from sgsc_micro.passes.residual import fuse
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
@settings(max_examples=15, deadline=None)
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

    compute = staticmethod(relax.op.add)
    swapped = False

    def adding(self, image: Image) -> Image:
        """A 3x3 convolution and the add."""
        return self.sum_of(image, self.same(image))

    def branches(self, image: Image) -> Image:
        """Two convolutions of one image, added."""
        return self.sum_of(self.same(image), self.same(image))

    def shared(self, image: Image) -> Image:
        """A convolution whose result is added twice."""
        other = self.same(image)
        return self.sum_of(self.sum_of(image, other), other)

    def squeeze(self, image: Image) -> Image:
        """``image`` and its mean, which is broadcast."""
        total = self.builder.emit(relax.op.mean(self._dequantize(image), [1, 2], keepdims=True))
        return self.sum_of(image, self._quantize(total, image[1], image[2]))

    def same(self, image: Image) -> Image:
        """A 3x3 convolution that keeps the shape."""
        channels = int(image[0].ty.shape[3])
        return self._conv(image, channels, groups=1, depth=channels, same=True)

    def sum_of(self, a: Image, b: Image) -> Image:
        """At a scale that nothing of it saturates at."""
        pair = [self._dequantize(a), self._dequantize(b)]
        total = self.builder.emit(self.compute(*(reversed(pair) if self.swapped else pair)))
        return self._quantize(total, 1.7 * max(a[1], b[1]), 0)

    def _activation(self, total: relax.Var) -> relax.Var:
        return total


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
    assert len(np.unique(expected)) > 10
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
    body = [str(kind) for kind in rng.choice(["residual", "conv", "branches", "shared", "squeeze", "twice"], 4)]
    module = _Adding(rng).build((4, 5, 3), body, [1, 8])
    x = rng.normal(0, 3, (2, 3, 4, 5)).astype(np.float32)
    assert np.array_equal(reference.run_integers(fused(module), x), reference.run_integers(module, x))


def test_a_layer_whose_result_is_read_elsewhere_keeps_its_own() -> None:
    graph = read_graph(fused(_Adding(np.random.default_rng(0)).build((5, 4, 3), ["shared"], [8])))
    assert not any(isinstance(node.operator, Residual) for node in graph.nodes)
    graph = read_graph(
        SortChannels()(FuseQuantizedOps()(_Adding(np.random.default_rng(0)).build((5, 4, 3), ["adding"], [8])))
    )
    ends_early = replace(graph, output_tensor=graph.nodes[0].output, nodes=graph.nodes[:2])
    assert fuse(ends_early) == ends_early


@pytest.mark.parametrize("body", [["conv", "twice"], ["conv", "broadcast"]])
def test_an_add_of_anything_else_stays(body: list[str]) -> None:
    for seed in range(20):
        graph = read_graph(fused(GraphBuilder(np.random.default_rng(seed)).build((5, 4, 3), body, [8])))
        for node in graph.nodes:
            if isinstance(node.operator, Residual):  # of a constant that is not broadcast
                assert graph.shapes[node.inputs[1]] == graph.shapes[node.output]
                assert node.inputs[1] in graph.constants


@given(seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_what_is_read_is_what_was_written(seed: int) -> None:
    """The plan played through byte by byte: every byte of the arena remembers whose it is."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(["residual", "conv", "lookup", "branches", "shared", "squeeze", "twice"], 4)
    drawn = random_graph(seed)[0] if seed % 2 else _Adding(rng).build((4, 5, 3), [str(kind) for kind in kinds], [8])
    graph = read_graph(optimise(drawn))
    outputs = [node.output for node in graph.nodes if graph.owners()[node.output] == node.output]
    graph = replace(graph, output_tensor=str(rng.choice(outputs)))  # what comes behind it must leave it alone
    plan = planned(graph)
    bytes_of = [np.full(part.bytes, "", dtype=object) for part in plan.parts]
    owner = {tensor: tensor for tensor in graph.shapes}

    def cells(resident: Resident) -> np.ndarray:
        assert resident.offset % 4 == 0 and resident.offset + resident.bytes <= len(bytes_of[resident.part])
        return bytes_of[resident.part][resident.offset : resident.offset + resident.bytes]

    cells(plan.tensors[graph.input_tensor])[:] = graph.input_tensor
    for node in graph.nodes:
        inputs = [owner[tensor] for tensor in node.inputs if tensor not in graph.constants]
        if isinstance(node.operator, Reshape):
            owner[node.output] = owner[node.inputs[0]]
            continue
        target = plan.tensors[node.output]
        assert target.bytes == np.prod(graph.shapes[node.output])
        if node.name in plan.scratch:
            cells(plan.scratch[node.name])[:] = "scratch"
        for tensor in inputs:
            assert (cells(plan.tensors[tensor]) == tensor).all()
        before = [cells(plan.tensors[tensor]).copy() for tensor in inputs]
        cells(target)[:] = node.output
        for number, (tensor, old) in enumerate(zip(inputs, before, strict=True)):
            spoiled = (cells(plan.tensors[tensor]) != old).any()
            same = plan.tensors[tensor].offset == target.offset and plan.tensors[tensor].bytes == target.bytes
            assert not spoiled or (number in node.operator.overwrites and same)
        assert node.name not in plan.scratch or (cells(plan.scratch[node.name]) == "scratch").all()
    last = owner[graph.output_tensor]
    assert (cells(plan.tensors[last]) == last).all()
    assert plan.live_bytes <= plan.arena_bytes


def _kinds(body: list[str], seed: int = 0) -> tuple[Graph, Plan]:
    module = optimise(GraphBuilder(np.random.default_rng(seed)).build((6, 6, 4), body, [8]))
    return read_graph(module), read_plan(module)


def test_a_chain_of_elementwise_operators_takes_the_bytes_of_one() -> None:
    graph, plan = _kinds(["conv", "lookup", "softmax", "requantize", "twice", "lookup"])
    chain = [plan.tensors[node.output] for node in graph.nodes if node.operator.overwrites]
    assert len(chain) >= 4
    assert {resident.offset for resident in chain} == {chain[0].offset}
    assert [resident.over for resident in chain[1:]] == [resident.name for resident in chain[:-1]]


def test_a_residual_block_takes_two_tensors_and_a_row() -> None:
    module = _Adding(np.random.default_rng(5)).build((16, 16, 4), ["adding", "adding", "adding"], [8])
    plan = read_plan(optimise(module))
    rows = 4 * 2 * 9 * 4  # the int16 activations under a 3x3 kernel at four pixels
    block = (
        2 * 16 * 16 * 4 + rows + 3 * 4 + 4 * 4
    )  # x and y; a kernel row outside of the image, and what four pixels give
    assert plan.live[:3] == (block, block, block)
    assert plan.arena_bytes == plan.live_bytes
