"""Operators that work value by value: sums, products, requantising, lookups; a micro-kernel does a run of values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sgsc_micro.kernels.builder import Expression, Kernel, Requantiser, kernel, loops, run
from sgsc_micro.kernels.constants import Constants
from sgsc_micro.kernels.view import View, dot
from sgsc_micro.passes.operators import Add, Lookup, Multiply, Requantize
from sgsc_micro.passes.requantise import ADD_BITS, DoubleRounding

Shape = tuple[int, ...]
Values = tuple[Expression, int]
"""Where a run of values begins and how far each lies from the next: 1, or 0 where it is one value for all."""


@dataclass(frozen=True)
class Operation:
    """A micro-kernel over two runs of values: of which accumulator, how it ends."""

    function: str
    constants: tuple[int, ...]
    """Of the accumulator, as c/sgsc_elementwise.h takes them."""
    requantise: Requantiser
    swaps: bool = False
    """Whether it takes the second operand first."""

    def __call__(self, built: Kernel, out: Values, operands: Sequence[Values], n: Expression) -> None:
        """``n`` values of int8."""
        first, second = reversed(operands) if self.swaps else operands
        name = f"sgsc_{self.function}_{self.requantise.kind}"
        run(name, *out, *first, *second, n, *self.constants, *self.requantise.arguments(built))


def add(name: str, operator: Add, inputs: list[Shape], output: Shape) -> Kernel:
    """Both inputs at 20 fraction bits of one scale, summed; or their difference."""
    constants = Constants(name)
    return _elementwise(name, constants, inputs, output, adding(operator, constants))


def adding(operator: Add, constants: Constants) -> Operation:
    """What an add or a subtract does to two runs of values."""
    return (_tflite_sum if operator.output.rounding == "tflite" else _single_sum)(operator, constants)


def _single_sum(operator: Add, constants: Constants) -> Operation:
    """Coefficients of 20 fraction bits of the larger scale."""
    largest = max(quantisation.scale for quantisation in operator.inputs)
    a, b = (math.floor(2.0**ADD_BITS * (quantisation.scale / largest) + 0.5) for quantisation in operator.inputs)
    return _linear(operator, constants, (a, b), largest / 2.0**ADD_BITS)


def _tflite_sum(operator: Add, constants: Constants) -> Operation:
    """Each input shifted left by 20 bits, brought to twice the larger scale and rounded; then summed.

    Where nothing is shifted right, as for the larger scale, that is a coefficient: half, or 0 for the smallest scales.
    """
    twice = 2 * max(quantisation.scale for quantisation in operator.inputs)
    scalings = [DoubleRounding.of(quantisation.scale / twice) for quantisation in operator.inputs]
    if not any(scaling.right for scaling in scalings):
        a, b = (scaling.apply(1 << ADD_BITS) for scaling in scalings)
        return _linear(operator, constants, (a, b), twice / 2.0**ADD_BITS)
    reaches = zip(operator.inputs, scalings, strict=True)
    bound = sum(scaling.apply(quantisation.reach << ADD_BITS) for quantisation, scaling in reaches)
    requantise = _requantiser(constants, operator, twice / 2.0**ADD_BITS, bound)
    swaps = scalings[0].right > 0
    (_, larger), (scaling, smaller) = sorted(
        zip(scalings, operator.inputs, strict=True), key=lambda pair: pair[0].right
    )
    function = "add" if operator.sign > 0 else "subtract_from" if swaps else "subtract"
    return Operation(function, (larger.zero_point, smaller.zero_point, 0, scaling.m, scaling.right), requantise, swaps)


def _linear(operator: Add, constants: Constants, coefficients: tuple[int, int], scale: float) -> Operation:
    (a, b), (x, y) = coefficients, operator.inputs
    requantise = _requantiser(constants, operator, scale, a * x.reach + b * y.reach)
    b *= operator.sign
    return Operation("sum", (a, b, -(a * x.zero_point + b * y.zero_point), 0, 0), requantise)


def multiply(name: str, operator: Multiply, inputs: list[Shape], output: Shape) -> Kernel:
    """The product of centred values."""
    (a, b), constants = operator.inputs, Constants(name)
    requantise = _requantiser(constants, operator, a.scale * b.scale, a.reach * b.reach)
    product = Operation("multiply", (a.zero_point, b.zero_point, 0, 0, 0), requantise)
    return _elementwise(name, constants, inputs, output, product)


def requantize(name: str, operator: Requantize, _inputs: list[Shape], output: Shape) -> Kernel:
    """From one scale to another."""
    constants, size, x = Constants(name), math.prod(output), operator.input
    requantise = _requantiser(constants, operator, x.scale, x.reach)
    with kernel(name, [(size,)], (size,), constants) as built:
        places = built.place("out", 0), built.place("in0", 0)
        run(f"sgsc_requantize_{requantise.kind}", *places, size, x.zero_point, *requantise.arguments(built))
    return built


def lookup(name: str, operator: Lookup, _inputs: list[Shape], output: Shape) -> Kernel:
    """out[i] = table[in[i] + 128]."""
    constants, size = Constants(name), math.prod(output)
    table = constants.integers("table", operator.table)
    with kernel(name, [(size,)], (size,), constants) as built:
        run("sgsc_lookup", built.place("out", 0), built.place("in0", 0), size, built.address(table, 0))
    return built


def _requantiser(constants: Constants, operator: Add | Multiply | Requantize, scale: float, bound: int) -> Requantiser:
    return Requantiser(constants, operator.output, [operator.output.multiplier(scale)], np.array([bound]))


def _elementwise(name: str, constants: Constants, inputs: list[Shape], output: Shape, operation: Operation) -> Kernel:
    """The innermost axis, of as many as are one, is a run."""
    *outer, (n, strides) = _axes([*inputs, output])
    flat: list[Shape] = [(math.prod(shape),) for shape in (*inputs, output)]
    with kernel(name, flat[:-1], flat[-1], constants) as built:
        with loops(**{f"i{axis}": extent for axis, (extent, _) in enumerate(outer)}) as position:
            names = [*(f"in{number}" for number in range(len(inputs))), "out"]
            firsts = [dot(position, [axis[number] for _, axis in outer]) for number in range(len(names))]
            places = [built.place(buffer, first) for buffer, first in zip(names, firsts, strict=True)]
            operands = list(zip(places[:-1], strides, strict=False))
            operation(built, (places[-1], 1), operands, n)
    return built


def _axes(shapes: Sequence[Shape]) -> list[tuple[int, tuple[int, ...]]]:
    """Extent, and stride in each tensor, of the axes they have together as NumPy broadcasts; at least one.

    A stride is 0 where a tensor has one value for the axis. Axes that every tensor sees as one are one.
    """
    rank = max(map(len, shapes))
    whole = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    extents = [max(along) for along in zip(*whole, strict=True)]
    views = [View.whole(shape).strides for shape in whole]
    axes: list[tuple[int, tuple[int, ...]]] = []
    for axis, extent in enumerate(extents):
        strides = tuple(view[axis] if shape[axis] > 1 else 0 for view, shape in zip(views, whole, strict=True))
        if extent == 1:
            continue
        if axes and axes[-1][1] == tuple(extent * stride for stride in strides):
            axes[-1] = axes[-1][0] * extent, strides
        else:
            axes.append((extent, strides))
    return axes or [(1, (1,) * len(shapes))]
