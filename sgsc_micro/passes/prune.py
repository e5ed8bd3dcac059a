"""Channels that carry nothing are removed, and the constant they leave goes into the next bias.

    before: conv2d_0 [16 channels, 5 of width 0] -> conv2d_1 [weights O, 3, 3, 16]
    after:  conv2d_0 [11 channels]               -> conv2d_1 [weights O, 3, 3, 11], bias + sum of w * (constant - z)

A channel whose weights are all zero gives one constant. It can go where every reader can do without it: a dense
layer or a convolution without padding takes any constant into its bias, one with padding only the zero point (at the
border the padding's zero stands in its place). A channel that no live output reads can go whatever it holds.

So do heads of attention (``slices.py``), with their queries and keys: one whose values are all the zero point mixes
them to the zero point, whatever the probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm

from sgsc_micro.errors import SgscError
from sgsc_micro.passes.graph import Graph, Node, read_graph, write_module
from sgsc_micro.passes.operators import BatchMatMul, Conv2D, Multiply, Operator, Reshape, Slice, Weighted
from sgsc_micro.passes.requantise import INT32_MAX
from sgsc_micro.passes.slices import Pairs, Slices


@tvm.transform.module_pass(opt_level=0, name="PruneChannels")
class PruneChannels:
    """The pass; needs a fused module."""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """The module without its dead channels; the network's own input and output keep all of theirs."""
        return write_module(prune(read_graph(module)))


def prune(graph: Graph) -> Graph:
    """See the module."""
    return _Pruner(graph).run()


@dataclass(frozen=True)
class _Constants:
    """Which slices of a tensor are one constant, bool [S], and which int8 it is, int64 [S]."""

    known: np.ndarray
    value: np.ndarray

    @staticmethod
    def none(slices: int) -> _Constants:
        return _Constants(np.zeros(slices, bool), np.zeros(slices, np.int64))

    def moved(self, pairs: Pairs, slices: int) -> _Constants:
        """After an operator that moves values: known is what is made of equal constants alone."""
        known, low, high = np.ones(slices, bool), np.full(slices, 127), np.full(slices, -128)
        np.logical_and.at(known, pairs[1], self.known[pairs[0]])
        np.minimum.at(low, pairs[1], self.value[pairs[0]])
        np.maximum.at(high, pairs[1], self.value[pairs[0]])
        return _Constants(known & (low == high), low)


class _Pruner:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.slices = graph, Slices(graph)
        self.pairs = {node.name: self.slices.pairs(node) for node in graph.nodes}
        untouched = {graph.input_tensor, *graph.constants}
        self.constants = {tensor: _Constants.none(self.slices.count(tensor)) for tensor in untouched}
        for node in graph.nodes:
            self.constants[node.output] = self._propagate(node)
        self.live = {tensor: np.zeros(self.slices.count(tensor), bool) for tensor in graph.shapes}

    def run(self) -> Graph:
        for tensor in (self.graph.input_tensor, self.graph.output_tensor, *self.graph.constants):
            self.live[tensor][:] = True
        self._settle()
        while dead := [tensor for tensor, live in self.live.items() if not live.any()]:
            self.live[dead[0]][0] = True  # a tensor keeps one slice at least
            self._settle()
        operators = {node.name: self._rewrite(node) for node in self.graph.nodes}
        shapes = {tensor: self.slices.shape(tensor, int(live.sum())) for tensor, live in self.live.items()}
        return replace(self.graph.with_operators(operators), shapes=shapes)

    def _settle(self) -> None:
        """Liveness flows from outputs to inputs, where slices go only together also forwards, until it rests."""
        count = -1
        while count != (count := sum(int(live.sum()) for live in self.live.values())):
            for node in reversed(self.graph.nodes):
                self._demand(node)

    # Forwards: what is constant.

    def _propagate(self, node: Node) -> _Constants:
        sources = [self.constants[tensor] for tensor in node.inputs]
        operator, source = node.operator, sources[0]
        if isinstance(operator, Weighted):
            return self._weighted_constants(operator, source)
        pairs, slices = self.pairs[node.name], self.slices.count(node.output)
        if pairs is None:
            return _Constants.none(slices)
        if isinstance(operator, BatchMatMul | Multiply):
            zero = [part.known & (part.value == q.zero_point) for part, q in zip(sources, operator.inputs, strict=True)]
            value = operator.output.end(0, operator.output.multiplier(1.0))
            return _Constants(np.logical_or.reduce(zero), np.full(slices, value))
        if len(sources) > 1:
            return _Constants.none(slices)
        moved = source.moved(pairs[0], slices)
        values = [operator.constant(int(value)) for value in moved.value]
        known = moved.known & np.array([value is not None for value in values])
        return _Constants(known, np.array([value or 0 for value in values]))

    def _weighted_constants(self, operator: Weighted, source: _Constants) -> _Constants:
        if not operator.mixes and not operator.channelwise:
            return _Constants.none(len(operator.weights))
        foldable = _foldable(operator, source)
        if isinstance(operator, Conv2D) and operator.is_depthwise:
            known = (operator.widths == 0) | foldable
            folded = np.where(foldable, _taps_by_input(operator)[:, 0] * (source.value - operator.input.zero_point), 0)
        else:
            varying = operator.weights.reshape(-1, operator.weights.shape[-1])[:, ~foldable]
            known = ~varying.any(axis=1).reshape(len(operator.weights), -1).any(axis=1)
            folded = _folded_bias(operator, source, foldable)
        value = [
            operator.output.end(int(accumulator), operator.output.multiplier(float(scale)))
            for accumulator, scale in zip(operator.bias + folded, operator.accumulator_scales(), strict=True)
        ]
        return _Constants(known, np.array(value))

    # Backwards: what is needed.

    def _demand(self, node: Node) -> None:
        operator, live_out = node.operator, self.live[node.output]
        if isinstance(operator, Weighted) and operator.mixes:
            (source,) = node.inputs
            needed = _taps_used(operator)[live_out].any(axis=0)  # [I]
            self.live[source] |= needed & ~_foldable(operator, self.constants[source])
            return
        pairs = self.pairs[node.name]
        if pairs is None:
            for tensor in (node.output, *node.inputs):
                self.live[tensor][:] = True
            return
        for tensor, (inputs, outputs) in zip(node.inputs, pairs, strict=True):
            live = self.live[tensor]
            together = live[inputs] | live_out[outputs]
            live[inputs[together]] = live_out[outputs[together]] = True

    # Rewriting.

    def _rewrite(self, node: Node) -> Operator:
        operator = node.operator
        if isinstance(operator, Reshape | Slice):
            return replace(operator, shape=self.slices.shape(node.output, int(self.live[node.output].sum())))
        if not isinstance(operator, Weighted):
            return operator
        live_in, live_out = self.live[node.inputs[0]], self.live[node.output]
        rows: dict[str, Any] = {"scales": operator.scales[live_out], "bias": operator.bias[live_out]}
        if isinstance(operator, Conv2D) and not operator.mixes:
            groups = int(live_in.sum()) if operator.is_depthwise else operator.groups
            return replace(operator, weights=operator.weights[live_out], groups=groups, **rows)
        removed = ~live_in & self.constants[node.inputs[0]].known
        bias = operator.bias + _folded_bias(operator, self.constants[node.inputs[0]], removed)
        if np.abs(bias).max() > INT32_MAX:
            raise SgscError(f"{node.name}: a bias leaves int32 with the constants of removed channels in it")
        rows["bias"] = bias[live_out].astype(np.int32)
        return replace(operator, weights=np.ascontiguousarray(operator.weights[live_out][..., live_in]), **rows)


def _taps_by_input(operator: Weighted) -> np.ndarray:
    """int64 [O, I]: the sum of the weights that one output puts on one input channel."""
    return _taps(operator).astype(np.int64).sum(axis=1)


def _taps_used(operator: Weighted) -> np.ndarray:
    """bool [O, I]: whether an output has a weight other than zero on an input channel."""
    return np.asarray(_taps(operator).any(axis=1))


def _taps(operator: Weighted) -> np.ndarray:
    """The weights as [O, taps, I]."""
    return operator.weights.reshape(len(operator.weights), -1, operator.weights.shape[-1])


def _foldable(operator: Weighted, source: _Constants) -> np.ndarray:
    """bool [I]: constant inputs that a bias can stand for."""
    padded = isinstance(operator, Conv2D) and operator.sees_zeros
    return source.known & (source.value == operator.input.zero_point) if padded else source.known


def _folded_bias(operator: Weighted, source: _Constants, inputs: np.ndarray) -> np.ndarray:
    """int64 [O]: what the constant ``inputs`` (bool [I]) add to each accumulator."""
    centred = np.where(inputs, source.value - operator.input.zero_point, 0)
    return _taps_by_input(operator) @ centred
