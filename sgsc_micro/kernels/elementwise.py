"""Operators that work value by value: sums, products, requantising, lookups."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from tvm.script.ir_builder import tirx as T

from sgsc_micro.kernels.builder import Expression, Kernel, Requantiser, call, kernel, loop, loops
from sgsc_micro.kernels.constants import Constants
from sgsc_micro.passes.operators import Add, Lookup, Multiply, Quantisation, Requantize
from sgsc_micro.passes.requantise import ADD_BITS, DoubleRounding, Multiplier

Shape = tuple[int, ...]
Combine = Callable[..., Expression]
"""From centred values, one of each input, to the accumulator."""


def add(name: str, operator: Add, inputs: list[Shape], output: Shape) -> Kernel:
    """Both inputs at 20 fraction bits of one scale, summed; or their difference."""
    constants = Constants(name)
    combine, multiplier, bound = _tflite_sum(operator) if operator.output.rounding == "tflite" else _sum(operator)
    requantise = Requantiser(constants, operator.output, [multiplier], np.array([bound]))
    return _elementwise(name, constants, operator.inputs, combine, requantise, inputs, output)


def _sum(operator: Add) -> tuple[Combine, Multiplier, int]:
    """Coefficients of 20 fraction bits of the larger scale."""
    largest = max(quantisation.scale for quantisation in operator.inputs)
    a, b = (math.floor(2.0**ADD_BITS * (quantisation.scale / largest) + 0.5) for quantisation in operator.inputs)
    bound = a * operator.inputs[0].reach + b * operator.inputs[1].reach
    multiplier = operator.output.multiplier(largest / 2.0**ADD_BITS)
    return lambda x, y: x * a + y * (operator.sign * b), multiplier, bound


def _tflite_sum(operator: Add) -> tuple[Combine, Multiplier, int]:
    """Each input shifted left by 20 bits, brought to twice the larger scale and rounded; then summed."""
    scales = [operator.precision(quantisation.scale) for quantisation in operator.inputs]
    twice, output_scale = 2 * max(scales), operator.precision(operator.output.quantisation.scale)
    scalings = [DoubleRounding.of(float(scale / twice)) for scale in scales]

    def combine(*values: Expression) -> Expression:
        a, b = (
            call("sgsc_scale_twice", value * (1 << ADD_BITS), scaling.m, scaling.right)
            for value, scaling in zip(values, scalings, strict=True)
        )
        return a + b if operator.sign > 0 else a - b

    reaches = zip(operator.inputs, scalings, strict=True)
    bound = sum(scaling.apply(quantisation.reach << ADD_BITS) for quantisation, scaling in reaches)
    return combine, DoubleRounding.of(float(twice / (2**ADD_BITS * output_scale))), bound


def multiply(name: str, operator: Multiply, inputs: list[Shape], output: Shape) -> Kernel:
    """The product of centred values."""
    constants = Constants(name)
    a, b = operator.inputs
    multipliers, bounds = [operator.output.multiplier(a.scale * b.scale)], np.array([a.reach * b.reach])
    requantise = Requantiser(constants, operator.output, multipliers, bounds)
    return _elementwise(name, constants, operator.inputs, lambda x, y: x * y, requantise, inputs, output)


def requantize(name: str, operator: Requantize, inputs: list[Shape], output: Shape) -> Kernel:
    """From one scale to another."""
    constants = Constants(name)
    multipliers, bounds = [operator.output.multiplier(operator.input.scale)], np.array([operator.input.reach])
    requantise = Requantiser(constants, operator.output, multipliers, bounds)
    return _elementwise(name, constants, (operator.input,), lambda x: x, requantise, inputs, output)


def lookup(name: str, operator: Lookup, _inputs: list[Shape], output: Shape) -> Kernel:
    """out[i] = table[in[i] + 128]."""
    constants, size = Constants(name), math.prod(output)
    table = constants.integers("table", operator.table)
    with kernel(name, [(size,)], (size,), constants) as built, loop("i", size) as i:
        index = T.Cast("int32", built.input()[i]) + 128
        T.buffer_store(built.output, T.Cast("int8", built.load(table, index)), [i])
    return built


def _elementwise(
    name: str,
    constants: Constants,
    quantisations: tuple[Quantisation, ...],
    combine: Combine,
    requantise: Requantiser,
    inputs: list[Shape],
    output: Shape,
) -> Kernel:
    """out[i] = requantise(combine(in0[i] - zero_point0, ...)), flat where no input is broadcast."""
    if all(math.prod(shape) == math.prod(output) for shape in inputs):
        inputs, output = [(math.prod(output),)] * len(inputs), (math.prod(output),)
    with kernel(name, [shape or (1,) for shape in inputs], output, constants) as built:
        with loops(**{f"i{axis}": extent for axis, extent in enumerate(output)}) as position:
            values = [
                T.Cast("int32", built.input(number)[_broadcast(position, shape)]) - quantisation.zero_point
                for number, (shape, quantisation) in enumerate(zip(inputs, quantisations, strict=True))
            ]
            T.buffer_store(built.output, requantise(built, combine(*values), 0), position)
    return built


def _broadcast(position: list[Expression], shape: Shape) -> list[Expression]:
    """Where an input of ``shape`` is read for an element of the output, as NumPy broadcasts."""
    trailing = zip(position[len(position) - len(shape) :], shape, strict=True)
    return [index if extent > 1 else 0 for index, extent in trailing] or [0]
