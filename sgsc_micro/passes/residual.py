"""An add becomes the end of the layer that computes one of its operands: the layer's own result is never stored.

    before: conv2d_0(x) -> y    add_0(y, other) -> z
    after:  residual_0(x, other) -> z      # Composite = "sgsc.conv2d_add", both operators' pieces inside

Every int8 value is what it was. Where ``other`` is not needed again, z may lie over it.
"""

from __future__ import annotations

from dataclasses import replace

import tvm

from sgsc_micro.passes.graph import Graph, Node, read_graph, write_module
from sgsc_micro.passes.operators import Add, Residual, Weighted


@tvm.transform.module_pass(opt_level=0, name="FuseResidual")
class FuseResidual:
    """The pass; needs a fused module, with its channels sorted and pruned."""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """The module with fewer operators, or as it was."""
        return write_module(fuse(read_graph(module)))


def fuse(graph: Graph) -> Graph:
    """See the module."""
    for node in graph.nodes:
        producer = _producer(graph, node)
        if producer is not None:
            graph = _joined(graph, producer, node)
    return graph


def _producer(graph: Graph, node: Node) -> Node | None:
    """The layer that may take over an add: it computes the later operand, so that everything it needs is there."""
    if not isinstance(node.operator, Add) or len({graph.shapes[name] for name in (*node.inputs, node.output)}) > 1:
        return None
    later = [other for other in graph.nodes if other.output in node.inputs][-1:]
    for other in later:
        alone = graph.consumers(other.output) == [node] and node.inputs[0] != node.inputs[1]
        if alone and isinstance(other.operator, Weighted) and other.output != graph.output_tensor:
            return other
    return None


def _joined(graph: Graph, producer: Node, node: Node) -> Graph:
    """One node in the producer's place for both."""
    weighted, add, number = producer.operator, node.operator, node.inputs.index(producer.output)
    assert isinstance(weighted, Weighted) and isinstance(add, Add)
    inputs = (*producer.inputs, node.inputs[1 - number])
    both = Node(producer.name, Residual(weighted, add, number), inputs, node.output)
    nodes = tuple(both if other is producer else other for other in graph.nodes if other is not node)
    shapes = {name: shape for name, shape in graph.shapes.items() if name != producer.output}
    return replace(graph, nodes=nodes, shapes=shapes)
