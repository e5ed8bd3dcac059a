"""Flat tensors seen as strided ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm.script.ir_builder import tirx as T

from sgsc_micro.kernels.builder import Expression

Shape = tuple[int, ...]


@dataclass(frozen=True)
class View:
    """Elements ``offset + sum(index * stride)`` of a flat tensor."""

    offset: int
    strides: tuple[int, ...]

    @staticmethod
    def whole(shape: Shape) -> View:
        """All of a tensor, in its own order."""
        return View(0, tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape))))

    def part(self, begin: tuple[int, ...], steps: tuple[int, ...] | None = None) -> View:
        """From ``begin``, every ``steps``-th element."""
        offset = self.offset + sum(first * stride for first, stride in zip(begin, self.strides, strict=True))
        steps = steps or (1,) * len(self.strides)
        return View(offset, tuple(step * stride for step, stride in zip(steps, self.strides, strict=True)))

    def permuted(self, axes: tuple[int, ...]) -> View:
        """Axis i is the old ``axes[i]``."""
        return View(self.offset, tuple(self.strides[axis] for axis in axes))


def dot(position: Sequence[Expression], strides: Sequence[int]) -> Expression:
    """How far from the first element a position lies."""
    return sum((index * stride for index, stride in zip(position, strides, strict=True)), T.int32(0))
