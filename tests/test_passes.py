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
from sgsc_micro.passes import FoldConstants, FuseQuantizedOps, PlanMemory, PruneChannels, SortChannels, optimise
from sgsc_micro.passes.graph import Graph, read_graph, write_module
from sgsc_micro.passes.operators import Conv2D, Lookup, Multiply, Pad, Reshape, Weighted
from sgsc_micro.passes.plan import Block, place, read_plan
from tests.graphs import GraphBuilder, Image, random_graph

SEEDS = st.integers(0, 2**32 - 1)
PASSES: dict[str, Callable[[], tvm.transform.Pass]] = {
    "fuse": lambda: tvm.transform.Sequential([]),  # fusing itself: every module below is fused first
    "fold": FoldConstants,
    "prune": PruneChannels,
    "sort": SortChannels,
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


@given(seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_nothing_alive_at_the_same_time_shares_a_byte(seed: int) -> None:
    module, _ = random_graph(seed)
    module = optimise(module)
    graph, plan = read_graph(module), read_plan(module)
    home = {tensor: tensor for tensor in graph.shapes}
    for node in graph.nodes:
        if isinstance(node.operator, Reshape):
            home[node.output] = home[node.inputs[0]]
    last = {}
    for step, node in enumerate(graph.nodes):
        for tensor in node.inputs:
            last[home[tensor]] = step
    alive: dict[str, tuple[int, int]] = {}
    for step, node in enumerate(graph.nodes):
        if home[node.output] == node.output and plan.tensors[node.output] >= 0:
            size = int(np.prod(graph.shapes[node.output]))
            alive[node.output] = plan.tensors[node.output], plan.tensors[node.output] + size
        for name, (begin, end) in alive.items():
            assert 0 <= begin and end <= plan.arena_bytes
            for other, (first, behind) in alive.items():
                assert name == other or end <= first or behind <= begin, (name, other)
            if isinstance(node.operator, Weighted):
                assert plan.scratch[node.name] >= end or plan.scratch[node.name] < begin or begin == end
        alive = {name: place_ for name, place_ in alive.items() if last.get(name, -1) > step}


BLOCKS = st.lists(
    st.builds(lambda size, first, length: Block(4 * size, first, first + length),
              st.integers(1, 50), st.integers(0, 10), st.integers(0, 5)),
    min_size=1, max_size=15,
)  # fmt: skip


@given(BLOCKS)
def test_placing_never_overlaps_and_never_goes_below_the_live_bytes(drawn: list[Block]) -> None:
    blocks = {str(number): block for number, block in enumerate(drawn)}
    offsets = place(blocks)
    for name, block in blocks.items():
        for other, rival in blocks.items():
            together = name != other and block.first <= rival.last and rival.first <= block.last
            apart = offsets[name] + block.size <= offsets[other] or offsets[other] + rival.size <= offsets[name]
            assert not together or apart
    live = max(sum(b.size for b in drawn if b.first <= step <= b.last) for step in range(20))
    assert max(offsets[name] + block.size for name, block in blocks.items()) >= live
