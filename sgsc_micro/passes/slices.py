"""What of a tensor can be removed: slices along one of its axes, and which slices of two tensors go only together.

Channels, along the last axis; but heads from where an attention splits them off to where they become channels again:

    dense_2 [1, T, H D] -> reshape [1, T, H, D] -> transpose [1, H, T, D] -> matmul [1, H, T, D] -> ... -> [1, T, H D]
    channels h D + d    -> heads h, axis 2      -> axis 1                 -> axis 1              -> ... -> channels
"""

from __future__ import annotations

import numpy as np

from sgsc_micro.passes.graph import Graph, Node
from sgsc_micro.passes.operators import BatchMatMul, Reshape, Transpose, Weighted

Pairs = tuple[np.ndarray, np.ndarray]
"""Slice ``[0][n]`` of an input holds what slice ``[1][n]`` of the output is made of, or a part of it."""


class Slices:
    """Of every tensor of a graph; axes are counted from the last, which is -1."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._axes: dict[str, int] = {}  # of tensors of heads; of all others it is the last
        self._find_heads()

    def axis(self, tensor: str) -> int:
        """Along which its slices lie."""
        return self._axes.get(tensor, -1)

    def count(self, tensor: str) -> int:
        """How many a tensor has; a number has one."""
        shape = self._graph.shapes[tensor]
        return shape[self.axis(tensor)] if shape else 1

    def shape(self, tensor: str, count: int) -> tuple[int, ...]:
        """Of the tensor with ``count`` slices."""
        shape, axis = list(self._graph.shapes[tensor]), self.axis(tensor)
        if shape:
            shape[axis] = count
        return tuple(shape)

    def pairs(self, node: Node) -> list[Pairs] | None:
        """For every input the slices that go only together with slices of the output, one to one or some to one; None
        where an operator needs all of its tensors."""
        tensors = (*node.inputs, node.output)
        if isinstance(node.operator, Reshape | Transpose):
            inputs, outputs = self.count(node.inputs[0]), self.count(node.output)
            moved = self._moved(node, self.axis(node.inputs[0]))
            code = np.unique(moved * outputs + self._numbers(node.output, self.axis(node.output)))
            return [np.divmod(code, outputs)] if len(code) == max(inputs, outputs) else None
        if not self._keeps(node, self.axis(node.output)) or len({self.axis(tensor) for tensor in tensors}) > 1:
            return None
        every = np.arange(self.count(node.output))
        return [(every, every) for _ in node.inputs]

    def _find_heads(self) -> None:
        """From the products of attention as far as the axis can be followed; layers read and write channels."""
        graph = self._graph
        layers = [node for node in graph.nodes if isinstance(node.operator, Weighted)]
        channels = {*graph.constants, *(tensor for node in layers for tensor in (*node.inputs, node.output))}
        for node in graph.nodes:
            tensors = (*node.inputs, node.output)
            if isinstance(node.operator, BatchMatMul) and self._keeps(node, -3) and graph.shapes[node.output][-3] > 1:
                self._axes.update({tensor: -3 for tensor in tensors if tensor not in channels})
        count = -1
        while count != (count := len(self._axes)):
            for node in graph.nodes:
                free = [tensor for tensor in (*node.inputs, node.output) if tensor not in channels]
                for known in [tensor for tensor in free if tensor in self._axes]:
                    for tensor in [tensor for tensor in free if tensor not in self._axes]:
                        axis = self._followed(node, known, tensor)
                        if axis is not None:
                            self._axes[tensor] = axis

    def _followed(self, node: Node, known: str, tensor: str) -> int | None:
        """The axis of a tensor of the node along which the slices of the ``known`` one lie."""
        if not isinstance(node.operator, Reshape | Transpose):
            return self.axis(known) if self._keeps(node, self.axis(known)) else None
        axes = range(-len(self._graph.shapes[tensor]), 0)
        for axis in axes:
            first, second = (axis, self.axis(known)) if known == node.output else (self.axis(known), axis)
            if np.array_equal(self._moved(node, first), self._numbers(node.output, second)):
                return axis
        return None

    def _keeps(self, node: Node, axis: int) -> bool:
        """Whether slice c of the node's output along ``axis`` depends on slice c of its inputs alone."""
        shapes = [self._graph.shapes[tensor] or (1,) for tensor in (*node.inputs, node.output)]
        if any(len(shape) < -axis for shape in shapes) or len({shape[axis] for shape in shapes}) > 1:
            return False
        constant = any(tensor in self._graph.constants for tensor in node.inputs)
        return node.operator.keeps_apart(axis) and not constant

    def _numbers(self, tensor: str, axis: int) -> np.ndarray:
        """For every value of a tensor which slice along ``axis`` it lies in."""
        shape = self._graph.shapes[tensor]
        numbers = np.arange(shape[axis] if shape else 1)
        return np.broadcast_to(numbers.reshape(-1, *[1] * (-axis - 1)) if shape else numbers[0], shape)

    def _moved(self, node: Node, axis: int) -> np.ndarray:
        """For every value of the output which slice of the input along ``axis`` it comes from."""
        moved = node.operator.evaluate(self._numbers(node.inputs[0], axis))
        assert moved is not None
        return moved
