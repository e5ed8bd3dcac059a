"""Operators that work value by value: sums, products, requantising, lookups."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm.script.ir_builder import tirx as T

from sgsc_micro.kernels.builder import Expression, Kernel, Requantiser, call, kernel, loop, loops
from sgsc_micro.kernels.constants import Constants
from sgsc_micro.passes.operators import Add, Lookup, Multiply, Quantisation, Requantize
from sgsc_micro.passes.requantise import ADD_BITS, DoubleRounding

Shape = tuple[int, ...]
Combine = Callable[..., Expression]
"""From centred values, one of each input, to the accumulator."""


@dataclass(frozen=True)
class Computation:
    """One int8 value of an elementwise operator from one of each input: centre, combine, requantise."""

    quantisations: tuple[Quantisation, ...]
    combine: Combine
    requantise: Requantiser

    def __call__(self, built: Kernel, *values: Expression) -> Expression:
        """int8 of int8 ``values``."""
        centred = (
            T.Cast("int32", value) - quantisation.zero_point
            for value, quantisation in zip(values, self.quantisations, strict=True)
        )
        return self.requantise(built, self.combine(*centred), 0)


def add(name: str, operator: Add, inputs: list[Shape], output: Shape) -> Kernel:
    """Both inputs at 20 fraction bits of one scale, summed; or their difference."""
    constants = Constants(name)
    return _elementwise(name, constants, adding(operator, constants), inputs, output)


def adding(operator: Add, constants: Constants) -> Computation:
    """What an add or a subtract does to two values."""
    combine, scale, bound = _tflite_sum(operator) if operator.output.rounding == "tflite" else _sum(operator)
    requantise = Requantiser(constants, operator.output, [operator.output.multiplier(scale)], np.array([bound]))
    return Computation(operator.inputs, combine, requantise)


def _sum(operator: Add) -> tuple[Combine, float, int]:
    """Coefficients of 20 fraction bits of the larger scale."""
    largest = max(quantisation.scale for quantisation in operator.inputs)
    a, b = (math.floor(2.0**ADD_BITS * (quantisation.scale / largest) + 0.5) for quantisation in operator.inputs)
    bound = a * operator.inputs[0].reach + b * operator.inputs[1].reach
    return lambda x, y: x * a + y * (operator.sign * b), largest / 2.0**ADD_BITS, bound


def _tflite_sum(operator: Add) -> tuple[Combine, float, int]:
    """Each input shifted left by 20 bits, brought to twice the larger scale and rounded; then summed."""
    twice = 2 * max(quantisation.scale for quantisation in operator.inputs)
    scalings = [DoubleRounding.of(quantisation.scale / twice) for quantisation in operator.inputs]

    def combine(*values: Expression) -> Expression:
        a, b = (
            call("sgsc_scale_twice", value * (1 << ADD_BITS), scaling.m, scaling.right)
            for value, scaling in zip(values, scalings, strict=True)
        )
        return a + b if operator.sign > 0 else a - b

    reaches = zip(operator.inputs, scalings, strict=True)
    bound = sum(scaling.apply(quantisation.reach << ADD_BITS) for quantisation, scaling in reaches)
    return combine, twice / 2.0**ADD_BITS, bound


def multiply(name: str, operator: Multiply, inputs: list[Shape], output: Shape) -> Kernel:
    """The product of centred values."""
    constants = Constants(name)
    a, b = operator.inputs
    multipliers, bounds = [operator.output.multiplier(a.scale * b.scale)], np.array([a.reach * b.reach])
    requantise = Requantiser(constants, operator.output, multipliers, bounds)
    compute = Computation(operator.inputs, lambda x, y: x * y, requantise)
    return _elementwise(name, constants, compute, inputs, output)


def requantize(name: str, operator: Requantize, inputs: list[Shape], output: Shape) -> Kernel:
    """From one scale to another."""
    constants = Constants(name)
    multipliers, bounds = [operator.output.multiplier(operator.input.scale)], np.array([operator.input.reach])
    requantise = Requantiser(constants, operator.output, multipliers, bounds)
    compute = Computation((operator.input,), lambda x: x, requantise)
    return _elementwise(name, constants, compute, inputs, output)


def lookup(name: str, operator: Lookup, _inputs: list[Shape], output: Shape) -> Kernel:
    """out[i] = table[in[i] + 128]."""
    constants, size = Constants(name), math.prod(output)
    table = constants.integers("table", operator.table)
    with kernel(name, [(size,)], (size,), constants) as built, loop("i", size) as i:
        index = T.Cast("int32", built.input()[i]) + 128
        T.buffer_store(built.output, T.Cast("int8", built.load(table, index)), [i])
    return built


def _elementwise(name: str, constants: Constants, compute: Computation, inputs: list[Shape], output: Shape) -> Kernel:
    """out[i] = compute(in0[i], ...), flat where no input is broadcast."""
    if all(math.prod(shape) == math.prod(output) for shape in inputs):
        inputs, output = [(math.prod(output),)] * len(inputs), (math.prod(output),)
    with kernel(name, [shape or (1,) for shape in inputs], output, constants) as built:
        with loops(**{f"i{axis}": extent for axis, extent in enumerate(output)}) as position:
            values = [built.input(number)[_broadcast(position, shape)] for number, shape in enumerate(inputs)]
            T.buffer_store(built.output, compute(built, *values), position)
    return built


def _broadcast(position: list[Expression], shape: Shape) -> list[Expression]:
    """Where an input of ``shape`` is read for an element of the output, as NumPy broadcasts."""
    trailing = zip(position[len(position) - len(shape) :], shape, strict=True)
    return [index if extent > 1 else 0 for index, extent in trailing] or [0]
