"""Heads of attention whose values carry nothing are removed: exact in integers, and nothing of them is stored."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from sgsc_micro import reference
from sgsc_micro.codegen import footprint
from sgsc_micro.compress import proposals, size
from sgsc_micro.compress.graph import canonical, layers_of
from sgsc_micro.compress.network import QuantisedNetwork
from sgsc_micro.importers import from_torch
from sgsc_micro.passes import FuseQuantizedOps, PruneChannels, optimise
from sgsc_micro.passes.graph import Graph, read_graph, write_module
from sgsc_micro.passes.operators import BatchMatMul, Dense
from tests import test_compress_graph as gpt
from tests.transformer import Shape, exported, tokens

LENGTH, DEPTH = 4, 3


@cache
def _transformer(heads: int) -> Graph:
    return read_graph(FuseQuantizedOps()(from_torch(exported(heads, Shape(LENGTH, DEPTH, heads, 1, 7)))))


def _dense(graph: Graph) -> tuple[list[str], list[Dense]]:
    """Query, key, value and projection."""
    nodes = [(node.name, node.operator) for node in graph.nodes if isinstance(node.operator, Dense)][:4]
    return [name for name, _ in nodes], [operator for _, operator in nodes]


def _without_values(graph: Graph, dead: tuple[bool, ...], rng: np.random.Generator, bias: str) -> Graph:
    """The values of ``dead`` heads have no weights, and no biases, or one that has, or all that saturate."""
    names, (_, _, value, _) = _dense(graph)
    weights, biases = rng.integers(-128, 128, value.weights.shape).astype(np.int8), value.bias.copy()
    rows = np.flatnonzero(np.repeat(dead, DEPTH))
    weights[rows] = biases[rows] = 0
    if bias != "none":
        biases[rows[::DEPTH] if bias == "one" else rows] = 2**22
    return graph.with_operators({names[2]: replace(value, weights=weights, bias=biases)})


@given(
    seed=st.integers(0, 2**32 - 1),
    dead=st.integers(1, 3).flatmap(lambda heads: st.tuples(*heads * [st.booleans()])),
    bias=st.sampled_from(["none", "none", "one", "all"]),
)
@example(0, (True, True, True), "none")
@example(0, (True, False, True), "none")
@example(0, (False, True, False), "all")
@settings(max_examples=12, deadline=None)
def test_heads_whose_values_are_the_zero_point_go_and_no_byte_changes(
    seed: int, dead: tuple[bool, ...], bias: str
) -> None:
    graph = _without_values(_transformer(len(dead)), dead, np.random.default_rng(seed), bias)
    whole = write_module(graph)
    pruned = PruneChannels()(whole)
    x = tokens(seed, Shape(LENGTH, DEPTH, len(dead), 1, 7), 4)
    assert np.array_equal(reference.run_integers(pruned, x), reference.run_integers(whole, x))
    left = len(dead) if bias != "none" else max(dead.count(False), 1)  # one stays where all are dead
    found = read_graph(pruned)
    products = [found.shapes[node.output][-3:] for node in found.nodes if isinstance(node.operator, BatchMatMul)]
    assert products == [(left, LENGTH, LENGTH), (left, LENGTH, DEPTH)]
    query, key, value, projection = _dense(found)[1]
    assert [*(len(layer.weights) for layer in (query, key, value)), projection.weights.shape[1]] == 4 * [left * DEPTH]


# From the compressor on.

VALUE = "blocks.0.qkv.value"


class _Unread(gpt.Block):
    """No layer reads what its attention mixes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.attend(*self.parts(x), self.lower)
        return x + y.transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize("read", [True, False])
def test_the_bias_of_values_goes_into_the_layer_that_reads_them_where_one_does(read: bool) -> None:
    torch.manual_seed(0)
    network, x = gpt.GPT(), gpt.tokens()
    if not read:
        network.blocks = nn.Sequential(_Unread(gpt.torchs_own, "split"), network.blocks[1])
    found = canonical(gpt.exported(network, x))
    torch.testing.assert_close(found(x.float()), network(x), atol=1e-5, rtol=1e-5)
    value = layers_of(found)[VALUE]
    assert bool(value.bias.any()) is value.bias.requires_grad is not read


@pytest.fixture
def pressed() -> QuantisedNetwork:
    """A GPT whose first block has lost its first head."""
    torch.manual_seed(0)
    network = gpt.quantised(gpt.GPT(), gpt.tokens())
    network.layers[VALUE].quantiser.bits.data[: gpt.DEPTH] = 0
    return network


def test_a_head_is_paid_for_as_far_as_its_values_are_there(pressed: QuantisedNetwork) -> None:
    row = {name: size.flash_bits(layer, 1)[8] for name, layer in pressed.layers.items()}
    widths = {name: torch.full((len(layer.bias),), 8.0) for name, layer in pressed.layers.items()}
    whole = float(size.cost(pressed, widths))
    values = widths[VALUE].requires_grad_()
    values.data[: gpt.DEPTH] = 0
    of_layers = gpt.DEPTH * (row[VALUE] + row["blocks.0.qkv.query"] + row["blocks.0.qkv.key"])
    columns = gpt.DEPTH * row["blocks.0.proj"]  # of WIDTH rows, DEPTH in WIDTH each
    assert whole - size.cost(pressed, widths).item() == pytest.approx(of_layers + columns, rel=1e-4)
    values.data[:2] = torch.tensor([0.25, 0.5])
    one_bit = size.flash_bits(pressed.layers[VALUE], 1)[1]
    left = (of_layers - gpt.DEPTH * row[VALUE] + columns) / 2  # as the widest value
    cost = size.cost(pressed, widths)
    assert whole - cost.item() == pytest.approx(of_layers + columns - left - 0.75 * one_bit, rel=1e-4)
    cost.backward()
    assert values.grad is not None and values.grad[1] > values.grad[0] > 0


def test_a_head_is_removed_as_one(pressed: QuantisedNetwork) -> None:
    removals = {removal.channels: removal.saved for removal in size.removals(pressed, ["flash"])}
    heads = {channels for channels in removals if len(channels) > 1}
    second = frozenset((VALUE, gpt.DEPTH + n) for n in range(gpt.DEPTH))
    assert second in heads and len(heads) == 3  # of two blocks of two heads, one is gone
    assert not any(frozenset({(VALUE, n)}) in removals for n in range(gpt.DEPTH))
    widths = {name: layer.quantiser.bits.detach() for name, layer in pressed.layers.items()}
    whole, without = size.cost(pressed, widths), size.cost(pressed, {**widths, VALUE: torch.zeros(gpt.WIDTH)})
    assert removals[second] == pytest.approx(float((whole - without) / whole), rel=1e-4)
    harms = {name: torch.ones(len(layer.bias)) for name, layer in pressed.layers.items()}
    harms[VALUE][gpt.DEPTH :] = 0.01  # equal ratios would leave it to chance
    chosen = proposals._removal([], pressed, harms, ["flash"])
    assert chosen[VALUE] == [gpt.DEPTH + n for n in range(gpt.DEPTH)]
    steps = [{"removed": {VALUE: chosen[VALUE]}, "accepted": False}]  # refused alone: it is held
    steps += [{"removed": {"blocks.1.mlp.0": [0, 1, 2, 3]}, "accepted": True}]  # twice as many: there is room for it
    assert VALUE not in proposals._removal(steps, pressed, harms, ["flash"])  # type: ignore[arg-type]


def test_a_head_that_is_missed_comes_back(pressed: QuantisedNetwork) -> None:
    x = gpt.tokens().float()
    wanted = gpt.quantised(gpt.GPT(), gpt.tokens())
    wanted.load_state_dict(pressed.state_dict())
    wanted.layers[VALUE].quantiser.bits.data.fill_(8)
    quantiser = pressed.layers[VALUE].quantiser
    optimizer = torch.optim.Adam([quantiser.bits], 0.2)
    for _ in range(15):
        optimizer.zero_grad()
        (pressed(x) - wanted(x).detach()).square().mean().backward()
        optimizer.step()
        quantiser.project(torch.zeros(gpt.WIDTH), torch.full((gpt.WIDTH,), 8.0))
    assert (quantiser.bits[: gpt.DEPTH] > 1).any()


def test_a_head_at_zero_bits_takes_no_flash(pressed: QuantisedNetwork) -> None:
    module, x = from_torch(pressed.export((gpt.T,))), gpt.tokens().float().numpy()
    step = list(pressed.network.children())[-1].scale().item()
    assert np.abs(reference.run(module, x) - pressed(torch.from_numpy(x)).detach().numpy()).max() <= 3 * step
    optimised = optimise(module)
    assert np.array_equal(reference.run_integers(optimised, x), reference.run_integers(module, x))
    graph = read_graph(optimised)
    heads = [graph.shapes[node.output][-3] for node in graph.nodes if isinstance(node.operator, BatchMatMul)]
    assert heads == [1, 1, 2, 2]
    pressed.layers[VALUE].quantiser.bits.data.fill_(8)
    whole = optimise(from_torch(pressed.export((gpt.T,))))
    rows_and_columns = 4 * gpt.DEPTH * gpt.WIDTH  # bytes of query, key, value and projection
    assert footprint(whole).flash - footprint(optimised).flash >= rows_and_columns
