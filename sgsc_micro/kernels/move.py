"""Operators that only move bytes: each is a few copies between strided views, contiguous runs by memcpy."""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm.script.ir_builder import tirx as T

from sgsc_micro.kernels.builder import Kernel, kernel, loop, loops, run
from sgsc_micro.kernels.constants import Constants
from sgsc_micro.kernels.view import View, dot
from sgsc_micro.passes.operators import Concatenate, Embedding, Pad, Slice, Take, Transpose

Shape = tuple[int, ...]


def transpose(name: str, operator: Transpose, inputs: list[Shape], output: Shape) -> Kernel:
    """The input read in another order."""
    source = View.whole(inputs[0]).permuted(operator.axes)
    return _copies(name, inputs, output, lambda built: _copy(built, 0, output, source, View.whole(output)))


def strided_slice(name: str, operator: Slice, inputs: list[Shape], output: Shape) -> Kernel:
    """A part of the input."""
    source = View.whole(inputs[0]).part(operator.begin, operator.strides)
    return _copies(name, inputs, output, lambda built: _copy(built, 0, output, source, View.whole(output)))


def concatenate(name: str, operator: Concatenate, inputs: list[Shape], output: Shape) -> Kernel:
    """Each input into its part of the output."""

    def body(built: Kernel) -> None:
        begin = [0] * len(output)
        for number, shape in enumerate(inputs):
            _copy(built, number, shape, View.whole(shape), View.whole(output).part(tuple(begin)))
            begin[operator.axis] += shape[operator.axis]

    return _copies(name, inputs, output, body)


def pad(name: str, operator: Pad, inputs: list[Shape], output: Shape) -> Kernel:
    """The output filled, then the input into its middle."""

    def body(built: Kernel) -> None:
        run("memset", T.address_of(built.output[0]), operator.value, math.prod(output))
        middle = View.whole(output).part(tuple(before for before, _ in operator.widths))
        _copy(built, 0, inputs[0], View.whole(inputs[0]), middle)

    return _copies(name, inputs, output, body)


def take(name: str, operator: Take, inputs: list[Shape], output: Shape) -> Kernel:
    """Slices of one axis, by a table."""
    constants, (shape,) = Constants(name), inputs
    axis = len(shape) + operator.axis
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    table = constants.integers("indices", operator.indices)
    with kernel(name, [(math.prod(shape),)], (math.prod(output),), constants) as built:
        with loops(outer=outer, index=len(operator.indices)) as (block, index):
            source = (block * shape[axis] + built.load(table, index)) * inner
            target = (block * len(operator.indices) + index) * inner
            run("memcpy", T.address_of(built.output[target]), T.address_of(built.input()[source]), inner)
    return built


def embedding(name: str, operator: Embedding, inputs: list[Shape], _output: Shape) -> Kernel:
    """A row of the table for every token."""
    constants, count = Constants(name), math.prod(inputs[0])
    rows, width = operator.table.shape
    table = constants.integers("table", operator.table.ravel())
    with kernel(name, [(count,)], (count * width,), constants) as built, loop("i", count) as i:
        token = T.Cast("int32", built.input()[i]) - operator.zero_point
        row = T.min(T.max(token, 0), rows - 1)
        run("memcpy", T.address_of(built.output[i * width]), built.address(table, row * width), width)
    return built


def _copies(name: str, inputs: list[Shape], output: Shape, body: Callable[[Kernel], None]) -> Kernel:
    """A kernel over flat tensors that needs no constants."""
    with kernel(name, [(math.prod(shape),) for shape in inputs], (math.prod(output),), Constants(name)) as built:
        body(built)
    return built


def _copy(built: Kernel, number: int, shape: Shape, source: View, target: View) -> None:
    """target[i] = source[i] for every i in ``shape``; axes that lie together in both become one first."""
    extents, sources, targets = _merged(shape, source.strides, target.strides)
    contiguous = sources[-1] == targets[-1] == 1
    outer = extents[:-1] if contiguous else extents
    with loops(**{f"i{axis}": extent for axis, extent in enumerate(outer)}) as position:
        origin = source.offset + dot(position, sources[: len(outer)])
        destination = target.offset + dot(position, targets[: len(outer)])
        x, y = built.input(number), built.output
        if contiguous:
            run("memcpy", T.address_of(y[destination]), T.address_of(x[origin]), extents[-1])
        else:
            T.buffer_store(y, x[origin], [destination])


def _merged(shape: Shape, sources: Shape, targets: Shape) -> tuple[list[int], list[int], list[int]]:
    """The same elements over fewer axes."""
    extents, first, second = [1], [1], [1]
    for extent, a, b in zip(shape, sources, targets, strict=True):
        if extent == 1:
            continue
        if extents[-1] == 1:
            extents[-1], first[-1], second[-1] = extent, a, b
        elif first[-1] == extent * a and second[-1] == extent * b:
            extents[-1], first[-1], second[-1] = extents[-1] * extent, a, b
        else:
            extents.append(extent)
            first.append(a)
            second.append(b)
    return extents, first, second
