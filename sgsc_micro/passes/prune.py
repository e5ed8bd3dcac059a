"""Channels that carry nothing are removed, and the constant they leave goes into the next bias.

    before: conv2d_0 [16 channels, 5 of width 0] -> conv2d_1 [weights O, 3, 3, 16]
    after:  conv2d_0 [11 channels]               -> conv2d_1 [weights O, 3, 3, 11], bias + sum of w * (constant - z)

A channel whose weights are all zero gives one constant. It can go where every reader can do without it: a dense
layer or a convolution without padding takes any constant into its bias, one with padding only the zero point (at the
border the padding's zero stands in its place). A channel that no live output reads can go whatever it holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm

from sgsc_micro.errors import SgscError
from sgsc_micro.passes.graph import Graph, Node, read_graph, write_module
from sgsc_micro.passes.operators import Conv2D, Operator, Reshape, Slice, Weighted
from sgsc_micro.passes.requantise import INT32_MAX


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
    """Which channels of a tensor are one constant, bool [C], and which int8 it is, int64 [C]."""

    known: np.ndarray
    value: np.ndarray

    @staticmethod
    def none(channels: int) -> _Constants:
        return _Constants(np.zeros(channels, bool), np.zeros(channels, np.int64))

    def tile(self, times: int) -> _Constants:
        return _Constants(np.tile(self.known, times), np.tile(self.value, times))


class _Pruner:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        untouched = {graph.input_tensor, *graph.constants}
        self.constants = {tensor: _Constants.none(graph.channels(tensor)) for tensor in untouched}
        for node in graph.nodes:
            self.constants[node.output] = self._propagate(node)
        self.live = {tensor: np.zeros(graph.channels(tensor), bool) for tensor in graph.shapes}

    def run(self) -> Graph:
        for tensor in (self.graph.input_tensor, self.graph.output_tensor, *self.graph.constants):
            self.live[tensor][:] = True
        self._settle()
        while dead := [tensor for tensor, live in self.live.items() if not live.any()]:
            self.live[dead[0]][0] = True  # a tensor keeps one channel at least
            self._settle()
        operators = {node.name: self._rewrite(node) for node in self.graph.nodes}
        counts = {tensor: int(live.sum()) for tensor, live in self.live.items()}
        shapes = {name: (*shape[:-1], counts[name]) if shape else () for name, shape in self.graph.shapes.items()}
        return replace(self.graph.with_operators(operators), shapes=shapes)

    def _settle(self) -> None:
        """Liveness flows from outputs to inputs, through channel-wise operators also forwards, until it rests."""
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
        if self.graph.flattens(node):
            return source.tile(self.graph.channels(node.output) // len(source.known))
        if not self.graph.in_step(node):
            return _Constants.none(self.graph.channels(node.output))
        if len(sources) > 1:
            return _Constants.none(self.graph.channels(node.output))
        values = [operator.constant(int(value)) for value in source.value]
        known = source.known & np.array([value is not None for value in values])
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
        elif self.graph.flattens(node):
            (source,) = node.inputs
            self.live[source] |= live_out.reshape(-1, len(self.live[source])).any(axis=0)
            live_out |= np.tile(self.live[source], len(live_out) // len(self.live[source]))
        elif self.graph.in_step(node):  # channel by channel: all tensors of the node keep the same ones
            union = np.logical_or.reduce([live_out, *(self.live[tensor] for tensor in node.inputs)])
            for tensor in (node.output, *node.inputs):
                self.live[tensor] |= union
        else:
            for tensor in (node.output, *node.inputs):
                self.live[tensor][:] = True

    # Rewriting.

    def _rewrite(self, node: Node) -> Operator:
        operator = node.operator
        if isinstance(operator, Reshape | Slice):
            return replace(operator, shape=(*operator.shape[:-1], int(self.live[node.output].sum())))
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
