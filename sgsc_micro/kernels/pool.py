"""Pooling: the loops over pixels and channels are TIR's, one window is a micro-kernel's."""

from __future__ import annotations

import numpy as np
from tvm.script.ir_builder import tirx as T

from sgsc_micro.kernels.builder import Expression, Kernel, Requantiser, call, kernel, loops
from sgsc_micro.kernels.constants import Constants
from sgsc_micro.passes.operators import AveragePool, MaxPool

Shape = tuple[int, ...]


def average_pool(name: str, operator: AveragePool, inputs: list[Shape], output: Shape) -> Kernel:
    """The sum of a window minus its zero points, requantised."""
    constants = Constants(name)
    bounds = np.array([operator.size[0] * operator.size[1] * operator.input.reach])
    requantise = Requantiser(constants, operator.output, np.array([operator.accumulator_scale]), bounds)
    _, height, width, channels = output
    rows, columns = operator.size
    _, _, input_width, _ = inputs[0]
    zeros = rows * columns * operator.input.zero_point
    with kernel(name, inputs, output, constants) as built:
        with loops(oy=height, ox=width, c=channels) as (oy, ox, c):
            corner = T.address_of(built.input()[0, oy * operator.strides[0], ox * operator.strides[1], c])
            total = call("sgsc_window_sum", corner, rows, columns, input_width * channels, channels)
            T.buffer_store(built.output, requantise(built, total - zeros, 0), [0, oy, ox, c])
    return built


def max_pool(name: str, operator: MaxPool, inputs: list[Shape], output: Shape) -> Kernel:
    """The maximum of the part of a window that lies in the image."""
    _, height, width, channels = output
    _, input_height, input_width, _ = inputs[0]
    with kernel(name, inputs, output, Constants(name)) as built:
        with loops(oy=height, ox=width) as (oy, ox):
            y0, rows = _clipped(oy, operator.size[0], operator.strides[0], operator.padding[0], input_height)
            x0, columns = _clipped(ox, operator.size[1], operator.strides[1], operator.padding[1], input_width)
            with loops(c=channels) as (c,):
                corner = T.address_of(built.input()[0, y0, x0, c])
                strides = input_width * channels, channels
                largest = call("sgsc_window_max", corner, rows, columns, *strides, dtype="int8")
                T.buffer_store(built.output, largest, [0, oy, ox, c])
    return built


def _clipped(index: Expression, size: int, stride: int, padding: int, extent: int) -> tuple[Expression, Expression]:
    """Where a window begins inside the image, and how far it goes."""
    begin = index * stride - padding
    first = T.max(begin, 0)
    return first, T.min(begin + size, extent) - first
