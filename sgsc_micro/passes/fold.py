"""What is known when the network is compiled is done then; what does nothing goes.

before: pad_0 [1, 49, 10, 1 -> 1, 53, 12, 1] -> conv2d_0 padding 0
after:  conv2d_0 padding 2, 1, 2, 1                       where what is padded stands for 0

before: requantize_0 -> lookup_0                          after: lookup_0 with the table of both
before: transpose_0 -> transpose_1                        after: transpose_1 with the axes of both
before: transpose_0(constant) -> multiply_0(x, .)         after: multiply_0(x, constant)
before: requantize_0 from a scale and zero point to the same, transpose_0 that moves nothing: gone

before: output = reshape_0(input)                         after: output = slice_0(reshape_0(input)), all of it: a copy
"""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
import tvm

from sgsc_micro.passes.graph import Graph, Node, read_graph, write_module
from sgsc_micro.passes.operators import Conv2D, Lookup, Operator, Pad, Requantize, Slice, Transpose


@tvm.transform.module_pass(opt_level=0, name="FoldConstants")
class FoldConstants:
    """The pass; needs a fused module."""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """The module with fewer operators, or as it was."""
        return write_module(fold(read_graph(module)))


def fold(graph: Graph) -> Graph:
    """See the module. One step at a time until nothing is left to do; then something has to write the output."""
    while (folded := _step(graph)) is not None:
        graph = folded
    return _with_written_output(graph)


def _with_written_output(graph: Graph) -> Graph:
    tensor = graph.output_tensor
    if graph.owners()[tensor] not in (graph.input_tensor, *graph.constants):
        return graph
    shape = graph.shapes[tensor]
    names = {*graph.shapes, *(node.name for node in graph.nodes)}
    name, copied = (next(f"{kind}{n}" for n in count() if f"{kind}{n}" not in names) for kind in ("slice_", "t"))
    whole = Slice((0,) * len(shape), (1,) * len(shape), shape)
    nodes = (*graph.nodes, Node(name, whole, (tensor,), copied))
    return replace(graph, nodes=nodes, output_tensor=copied, shapes=graph.shapes | {copied: shape})


def _step(graph: Graph) -> Graph | None:
    for node in graph.nodes:
        if all(tensor in graph.constants for tensor in node.inputs):
            values = node.operator.evaluate(*(graph.constants[tensor] for tensor in node.inputs))
            if values is not None:
                return _without(replace(graph, constants=graph.constants | {node.output: values}), node)
        if _does_nothing(graph, node):
            return _without(_renamed(graph, node.output, node.inputs[0]), node)
        for reader in graph.consumers(node.output):
            merged = _merged(graph, node, reader)
            if merged is not None:
                kept = replace(reader, operator=merged, inputs=node.inputs)
                nodes = tuple(kept if other is reader else other for other in graph.nodes)
                graph = replace(graph, nodes=nodes)
                unread = not graph.consumers(node.output) and node.output != graph.output_tensor
                return _without(graph, node) if unread else graph
    return None


def _does_nothing(graph: Graph, node: Node) -> bool:
    if len(node.inputs) > 1 or graph.shapes[node.inputs[0]] != graph.shapes[node.output]:
        return False
    return node.operator.is_identity


def _merged(graph: Graph, node: Node, reader: Node) -> Operator | None:
    """One operator for both, where there is one."""
    first, second = node.operator, reader.operator
    if isinstance(first, Pad) and isinstance(second, Conv2D) and first.value == second.input.zero_point:
        (batch, height, width, channels), plain = first.widths, second.upsample == (1, 1)
        if plain and batch == channels == (0, 0):
            sides = (height[0], width[0], height[1], width[1])
            top, left, bottom, right = (a + b for a, b in zip(second.padding, sides, strict=True))
            return replace(second, padding=(top, left, bottom, right))
    if isinstance(first, Transpose) and isinstance(second, Transpose):
        return Transpose(tuple(first.axes[axis] for axis in second.axes))
    if isinstance(first, Requantize | Lookup) and isinstance(second, Lookup):
        every = [first.constant(value) or 0 for value in range(-128, 128)]
        return Lookup(second.table[np.array(every) + 128])
    return None


def _without(graph: Graph, node: Node) -> Graph:
    """Without a node whose output is no longer computed; its constant inputs stay where others read them."""
    nodes = tuple(other for other in graph.nodes if other.name != node.name)
    read = {tensor for other in nodes for tensor in other.inputs}
    constants = {name: values for name, values in graph.constants.items() if name in read}
    named = {graph.input_tensor, *(other.output for other in nodes), *constants}
    shapes = {name: shape for name, shape in graph.shapes.items() if name in named}
    return replace(graph, nodes=nodes, constants=constants, shapes=shapes)


def _renamed(graph: Graph, old: str, new: str) -> Graph:
    """What read ``old`` reads ``new``."""

    def name(tensor: str) -> str:
        return new if tensor == old else tensor

    nodes = tuple(replace(node, inputs=tuple(map(name, node.inputs))) for node in graph.nodes)
    return replace(graph, nodes=nodes, output_tensor=name(graph.output_tensor))
