"""Pooling and interpolation: the loops over pixels are TIR's; all channels of a window are a micro-kernel's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tvm.script.ir_builder import tirx as T

from sgsc_micro.kernels.builder import Expression, Kernel, Requantiser, bind, call, kernel, loop, loops, run
from sgsc_micro.kernels.constants import Constants, Entry
from sgsc_micro.passes.operators import AveragePool, MaxPool, ResizeBilinear

Shape = tuple[int, ...]
RESIZE_BITS = 10
"""Fraction bits of a position between two pixels."""


def average_pool(name: str, operator: AveragePool, inputs: list[Shape], output: Shape) -> Kernel:
    """The mean of the part of each window that lies in the image."""
    constants = Constants(name)
    largest = operator.size[0] * operator.size[1]
    counts = np.arange(1, largest + 1) if any(operator.padding) else np.array([largest])
    multipliers = [operator.output.multiplier(operator.input.scale / count) for count in counts.tolist()]
    bounds = counts * operator.input.reach
    divides = operator.output.rounding == "tflite"  # by the count, the scale unchanged
    requantise = None if divides else Requantiser(constants, operator.output, multipliers, bounds)
    with kernel(name, inputs, output, constants) as built, _windows(built, operator, inputs[0], output) as window:
        if requantise is None:
            run("sgsc_average_divided", *window.arguments, *operator.output.bounds)
        else:
            start = window.pixels * -operator.input.zero_point
            scale = requantise.arguments(built, window.pixels - int(counts[0]))
            run(f"sgsc_average_{requantise.kind}", *window.arguments, start, *scale)
    return built


def max_pool(name: str, operator: MaxPool, inputs: list[Shape], output: Shape) -> Kernel:
    """The maximum of the part of each window that lies in the image."""
    with kernel(name, inputs, output, Constants(name)) as built:
        with _windows(built, operator, inputs[0], output) as window:
            run("sgsc_max_pool", *window.arguments)
    return built


@dataclass(frozen=True)
class _Window:
    """The part of a window that lies in the image."""

    arguments: list[Expression]
    """Of a micro-kernel: where channels go and begin, rows, columns and their strides, channels by four and alone."""
    pixels: Expression


@contextlib.contextmanager
def _windows(built: Kernel, operator: AveragePool | MaxPool, shape: Shape, output: Shape) -> Iterator[_Window]:
    """Loops over the pixels of the output."""
    (_, height, width, channels), columns_in = output, shape[2]
    with loops(oy=height, ox=width) as (oy, ox):
        y0, rows = _clipped(oy, operator.size[0], operator.strides[0], operator.padding[0], shape[1])
        x0, columns = _clipped(ox, operator.size[1], operator.strides[1], operator.padding[1], columns_in)
        if operator.size[1] == columns_in and not any(operator.padding):  # whole rows, one behind the other
            rows, columns = 1, rows * columns
        places = T.address_of(built.output[0, oy, ox, 0]), T.address_of(built.input()[0, y0, x0, 0])
        window = rows, columns, columns_in * channels, channels
        yield _Window([*places, *window, *divmod(channels, 4)], rows * columns)


def _clipped(index: Expression, size: int, stride: int, padding: int, extent: int) -> tuple[Expression, Expression]:
    """Where a window begins inside the image, and how far it goes."""
    begin = index * stride - padding
    first = T.max(begin, 0)
    return first, T.min(begin + size, extent) - first


def resize_bilinear(name: str, operator: ResizeBilinear, inputs: list[Shape], output: Shape) -> Kernel:
    """Four neighbours, weighted with 10 fraction bits along each axis, rounded once."""
    constants = Constants(name)
    axes = [_neighbours(inputs[0][axis], output[axis], operator.mode) for axis in (1, 2)]
    stored = [[constants.integers(what, values) for what, values in zip(_TABLES, axis, strict=True)] for axis in axes]
    (_, height, width, channels), (low, high) = output, operator.output.bounds
    with kernel(name, inputs, output, constants) as built:
        with loops(y=height, x=width) as (y, x):
            rows, columns = _weighted(built, stored[0], y, "y"), _weighted(built, stored[1], x, "x")
            with loop("c", channels) as c:
                terms = [
                    T.Cast("int32", built.input()[0, iy, ix, c]) * wy * wx for iy, wy in rows for ix, wx in columns
                ]
                total = terms[0] + terms[1] + terms[2] + terms[3]
                rounded = call("sgsc_divide", total, 1 << 2 * RESIZE_BITS)
                T.buffer_store(built.output, call("sgsc_clamp", rounded, low, high, dtype="int8"), [0, y, x, c])
    return built


_TABLES = ("first neighbours", "second neighbours", "positions")


def _neighbours(extent: int, size: int, mode: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each output index: the two input indices and the weight of the second, int64 [size], 10 fraction bits."""
    one = 1 << RESIZE_BITS
    scale = (one * extent + size // 2) // size
    if mode == "align_corners" and size > 1:
        scale = (one * (extent - 1) + (size - 1) // 2) // (size - 1)
    position = np.arange(size) * scale
    if mode == "half_pixel":
        position = position + scale // 2 - one // 2
    first = np.maximum(position >> RESIZE_BITS, 0)
    second = np.minimum((position + one - 1) >> RESIZE_BITS, extent - 1)
    return first, second, position - first * one


def _weighted(built: Kernel, tables: list[Entry], index: Expression, axis: str) -> list[tuple[Expression, Expression]]:
    """The two neighbours of an output index along one axis, with their weights."""
    first, second, weight = (
        bind(f"{axis}{part}", built.load(table, index)) for part, table in zip("01w", tables, strict=True)
    )
    return [(first, (1 << RESIZE_BITS) - weight), (second, weight)]
