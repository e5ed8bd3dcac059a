"""Channels of one width side by side, so that a kernel runs one inner loop over each group.

    before: conv2d_0 widths 4 2 4 3 2   conv2d_1 reads channels 0 1 2 3 4
    after:  conv2d_0 widths 4 4 3 2 2   conv2d_1 reads channels 0 2 3 1 4: its weights are reordered, nothing moves

Tensors that are read channel by channel (depthwise, add, pooling) share one order.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import tvm

from sgsc_micro.passes.graph import Graph, Node, read_graph, write_module
from sgsc_micro.passes.operators import Dense, Operator, Weighted


@tvm.transform.module_pass(opt_level=0, name="SortChannels")
class SortChannels:
    """The pass; needs a fused module."""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """The module with its channels sorted by width, widest first; the network's input and output stay in order."""
        return write_module(sort(read_graph(module)))


def sort(graph: Graph) -> Graph:
    """See the module."""
    family = _families(graph)
    fixed = _fixed(graph, family)
    members: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if isinstance(node.operator, Weighted) and family[node.output] not in fixed:
            members.setdefault(family[node.output], []).append(node)
    orders: dict[str, np.ndarray] = {}
    for tensor in graph.shapes:
        nodes = members.get(family[tensor], [])
        keys = sorted((node.operator for node in nodes if isinstance(node.operator, Weighted)), key=lambda o: -o.taps)
        orders[tensor] = (
            np.lexsort([-operator.widths for operator in reversed(keys)]) if keys else np.arange(graph.channels(tensor))
        )
    for node in graph.nodes:
        if graph.flattens(node):
            orders[node.output] = _flattened(orders[node.inputs[0]], graph.channels(node.output))
    return graph.with_operators({node.name: _reorder(node, orders) for node in graph.nodes})


def _families(graph: Graph) -> dict[str, str]:
    """Tensor -> the first tensor of those whose channels must stay in step with it."""
    family = {tensor: tensor for tensor in graph.shapes}

    def join(a: str, b: str) -> None:
        old, new = sorted((family[a], family[b]), reverse=True)
        for tensor, head in family.items():
            if head == old:
                family[tensor] = new

    for node in graph.nodes:
        if graph.in_step(node):
            for tensor in node.inputs:
                join(tensor, node.output)
    return family


def _fixed(graph: Graph, family: dict[str, str]) -> set[str]:
    """Families whose order is not free: the network's ends, whatever an operator reads or writes in its own order."""
    ends = {graph.input_tensor, graph.output_tensor}
    for node in graph.nodes:
        if graph.flattens(node):
            readers = [reader.operator for reader in graph.consumers(node.output)]
            free = node.output != graph.output_tensor and all(isinstance(reader, Dense) for reader in readers)
        else:
            free = graph.in_step(node) or (isinstance(node.operator, Weighted) and node.operator.mixes)
        if not free:
            ends |= {*node.inputs, node.output}
    return {family[tensor] for tensor in ends}


def _flattened(order: np.ndarray, features: int) -> np.ndarray:
    """The order of the features of an image whose channels are in ``order``."""
    pixels = features // len(order)
    return (np.arange(pixels)[:, None] * len(order) + order).ravel()


def _reorder(node: Node, orders: dict[str, np.ndarray]) -> Operator:
    operator = node.operator
    if not isinstance(operator, Weighted):
        return operator
    rows = orders[node.output]
    weights = operator.weights[rows]
    if operator.mixes:
        weights = np.ascontiguousarray(weights[..., orders[node.inputs[0]]])
    return replace(operator, weights=weights, scales=operator.scales[rows], bias=operator.bias[rows])
