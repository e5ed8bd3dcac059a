"""Every pass alone keeps the integers of the network; each does what it is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from sgsc_micro import reference
from sgsc_micro.passes import FoldConstants, FuseQuantizedOps, FuseResidual, PlanMemory, PruneChannels, SortChannels
from sgsc_micro.passes.graph import Graph, read_graph, write_module
from sgsc_micro.passes.operators import Conv2D, Lookup, Multiply, Pad, Transpose
from tests.graphs import GraphBuilder, Image, random_graph

SEEDS = st.integers(0, 2**32 - 1)
PASSES: dict[str, Callable[[], tvm.transform.Pass]] = {
    "fuse": lambda: tvm.transform.Sequential([]),  # fusing itself: every module below is fused first
    "fold": FoldConstants,
    "prune": PruneChannels,
    "sort": SortChannels,
    "residual": FuseResidual,
    "plan": PlanMemory,
    "rewrite": lambda: _Rewrite(),
}


@tvm.transform.module_pass(opt_level=0, name="Rewrite")
class _Rewrite:
    """Through the graph and back."""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        return write_module(read_graph(module))


@pytest.mark.parametrize("name", PASSES)
@given(seed=SEEDS, narrow=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_pass_keeps_every_output_byte(name: str, seed: int, narrow: bool) -> None:
    module, x = random_graph(seed, [0, 0, 1, 2] if narrow else None)
    expected = reference.run_integers(module, x)
    passed = PASSES[name]()(FuseQuantizedOps()(module))
    assert np.array_equal(reference.run_integers(passed, x), expected)


def _graph(body: list[str], widths: list[int], seed: int = 0, shape: tuple[int, int, int] = (6, 6, 4)) -> Graph:
    return read_graph(FuseQuantizedOps()(GraphBuilder(np.random.default_rng(seed)).build(shape, body, widths)))


class _Foldable(GraphBuilder):
    """What constant folding is for, one piece a method."""

    def padded_conv(self, image: Image) -> Image:
        return self._conv(self._around(image, image[2]), 3, groups=1, depth=4, same=True)

    def conv_behind_another_value(self, image: Image) -> Image:
        return self._conv(self._around(image, image[2] + 1), 3, groups=1, depth=4, same=True)

    def _around(self, image: Image, value: int) -> Image:
        return self.builder.emit(relax.op.nn.pad(image[0], [0, 0, 1, 2, 3, 0, 0, 0], pad_value=value)), *image[1:]

    def constant_turned(self, image: Image) -> Image:
        values = np.arange(6 * 6 * 4, dtype=np.int8).reshape(1, 4, 6, 6)
        turned = self.builder.emit(relax.op.permute_dims(relax.const(values), (0, 2, 3, 1)))
        product = relax.op.multiply(self._dequantize(image), self._dequantize((turned, 0.1, 0)))
        return self._quantize(self.builder.emit(product), 1.0, 0)

    def turned_twice(self, image: Image) -> Image:
        once = self.builder.emit(relax.op.permute_dims(image[0], (0, 2, 3, 1)))
        return self.builder.emit(relax.op.permute_dims(once, (0, 2, 3, 1))), *image[1:]

    def nothing(self, image: Image) -> Image:
        same = self._quantize(self._dequantize(image), *image[1:])
        return self.builder.emit(relax.op.permute_dims(same[0], (0, 1, 2, 3))), *image[1:]


def _folded(body: list[str], seed: int = 0) -> tuple[Graph, Graph]:
    """Before and after; the last two nodes, a reshape and a dense layer, left out."""
    module = _Foldable(np.random.default_rng(seed)).build((6, 6, 4), body, [8])
    x = np.random.default_rng(seed).normal(0, 3, (2, 4, 6, 6)).astype(np.float32)
    fused = FuseQuantizedOps()(module)
    after = FoldConstants()(fused)
    assert np.array_equal(reference.run_integers(after, x), reference.run_integers(module, x))
    before, folded = (read_graph(m) for m in (fused, after))
    return replace(before, nodes=before.nodes[:-2]), replace(folded, nodes=folded.nodes[:-2])


def test_padding_with_what_stands_for_zero_becomes_the_convolutions() -> None:
    before, after = _folded(["padded_conv"])
    assert [type(node.operator) for node in before.nodes] == [Pad, Conv2D]
    (conv,) = (node.operator for node in after.nodes)
    assert isinstance(conv, Conv2D) and conv.padding == (2, 4, 3, 1)


def test_padding_with_another_value_stays() -> None:
    _, after = _folded(["conv_behind_another_value"])
    assert [type(node.operator) for node in after.nodes] == [Pad, Conv2D]


def test_a_table_behind_a_requantise_becomes_one_table() -> None:
    before, after = _folded(["requantize", "lookup"])
    first, second = (node.operator for node in before.nodes)
    (merged,) = (node.operator for node in after.nodes)
    assert isinstance(merged, Lookup) and isinstance(second, Lookup)
    for value in (-128, -1, 0, 100, 127):
        assert merged.constant(value) == second.constant(first.constant(value) or 0)


def test_two_transposes_become_one() -> None:
    before, after = _folded(["turned_twice"])
    (node,) = after.nodes
    assert len(before.nodes) == 2 and node.operator == Transpose((0, 3, 1, 2))


def test_what_is_constant_is_computed_once() -> None:
    before, after = _folded(["constant_turned"])
    assert len(before.nodes) == 2
    (node,) = after.nodes
    assert isinstance(node.operator, Multiply)
    (values,) = after.constants.values()
    assert np.array_equal(values, np.arange(6 * 6 * 4, dtype=np.int8).reshape(1, 4, 6, 6).transpose(0, 2, 3, 1))


def test_what_does_nothing_goes() -> None:
    before, after = _folded(["nothing"])
    assert len(before.nodes) == 2 and not after.nodes


def test_channels_of_width_zero_vanish_where_their_reader_can_do_without() -> None:
    graphs = [_graph(["conv", "conv", "conv"], [0, 4], seed) for seed in range(20)]
    before = sum(graph.channels(tensor) for graph in graphs for tensor in graph.shapes)
    pruned = [read_graph(PruneChannels()(write_module(graph))) for graph in graphs]
    after = sum(graph.channels(tensor) for graph in pruned for tensor in graph.shapes)
    assert after < before
    for old, new in zip(graphs, pruned, strict=True):
        assert new.shapes[new.output_tensor] == old.shapes[old.output_tensor]


@pytest.mark.parametrize("seed", range(60))  # a few in a hundred would show it
def test_a_constant_before_padding_is_not_taken_for_the_paddings_zero(seed: int) -> None:
    class Padded(GraphBuilder):
        def padded(self, image: Image) -> Image:
            return self._conv(image, 5, groups=1, depth=int(image[0].ty.shape[3]), same=True)

    module = Padded(np.random.default_rng(seed)).build((4, 4, 2), ["padded", "padded", "padded"], [0, 3])
    x = np.random.default_rng(seed).normal(0, 3, (2, 2, 4, 4)).astype(np.float32)
    pruned = PruneChannels()(FuseQuantizedOps()(module))
    assert np.array_equal(reference.run_integers(pruned, x), reference.run_integers(module, x))


def test_a_dead_network_keeps_one_channel_a_tensor() -> None:
    graph = read_graph(PruneChannels()(write_module(_graph(["conv", "depthwise", "residual"], [0]))))
    assert all(graph.channels(tensor) >= 1 for tensor in graph.shapes)


@given(seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_sorting_leaves_each_free_layer_one_run_a_width(seed: int) -> None:
    graph = read_graph(SortChannels()(write_module(_graph(["conv", "max_pool", "conv"], [1, 3, 5, 8], seed))))
    convs = [node.operator for node in graph.nodes if isinstance(node.operator, Conv2D)]
    for operator in convs:  # both feed tensors whose order is free
        assert np.array_equal(operator.widths, np.sort(operator.widths)[::-1])
