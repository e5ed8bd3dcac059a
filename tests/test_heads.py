"""Heads of attention whose values carry nothing are removed: exact in integers, and nothing of them is stored."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sgsc_micro import reference
from sgsc_micro.importers import from_torch
from sgsc_micro.passes import FuseQuantizedOps, PruneChannels
from sgsc_micro.passes.graph import Graph, read_graph, write_module
from sgsc_micro.passes.operators import BatchMatMul, Dense
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
