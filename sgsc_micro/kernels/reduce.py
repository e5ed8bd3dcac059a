"""Reductions: mean over whole axes, softmax, layer norm, products of activations."""

from __future__ import annotations

import math
from itertools import groupby

import numpy as np
from tvm.script.ir_builder import tirx as T

from sgsc_micro.errors import SgscError
from sgsc_micro.fixed_point import exp_table
from sgsc_micro.kernels.builder import Expression, Kernel, Requantiser, kernel, loop, loops, run
from sgsc_micro.kernels.constants import Constants
from sgsc_micro.kernels.view import View, dot
from sgsc_micro.passes.operators import BatchMatMul, LayerNorm, Mean, Softmax
from sgsc_micro.passes.requantise import DoubleRounding, Multiplier

Shape = tuple[int, ...]
SOFTMAX_MAX = 511
"""With more equal values the shift of the last rounding would leave 31 bits (TFLite aborts)."""


LAYER_NORM_MAX = 1024
"""With more values their sums would leave 64 bits."""


def mean(name: str, operator: Mean, inputs: list[Shape], output: Shape) -> Kernel:
    """The sum over the axes, their extents in the multiplier."""
    (shape,), constants = inputs, Constants(name)
    reduced, kept = _axes(shape, operator.axes)
    if len(reduced) > 2:
        raise SgscError(f"{name}: a mean over {len(reduced)} separate axes cannot be lowered", hint="transpose first")
    (rows, row_stride), (columns, column_stride) = [(1, 0)] * (2 - len(reduced)) + reduced
    count, size = rows * columns, math.prod(output)
    multiplier = _mean_multiplier(operator, count)
    requantise = Requantiser(constants, operator.output, [multiplier], np.array([count * operator.input.reach]))
    start = -count * operator.input.zero_point
    together, outer = (kept[-1][0], kept[:-1]) if kept and kept[-1][1] == 1 else (1, kept)
    strides = View.whole((*(extent for extent, _ in outer), together)).strides[:-1]
    with kernel(name, [(math.prod(shape),)], (size,), constants) as built:
        with loops(**{f"i{axis}": extent for axis, (extent, _) in enumerate(outer)}) as position:
            out = built.place("out", dot(position, strides))
            first = built.place("in0", dot(position, [stride for _, stride in outer]))
            window = rows, columns, row_stride, column_stride, *divmod(together, 4)
            run(f"sgsc_average_{requantise.kind}", out, first, *window, start, *requantise.arguments(built))
    return built


def _mean_multiplier(operator: Mean, count: int) -> Multiplier:
    if operator.output.rounding == "single":
        return operator.output.multiplier(operator.input.scale / count)
    whole = DoubleRounding.of(operator.input.scale / operator.output.quantisation.scale)
    exponent = whole.left - whole.right
    bits = min(count.bit_length() - 1, 32, 31 + exponent)  # TFLite divides the multiplier, rounding down
    exponent -= bits
    return DoubleRounding((whole.m << bits) // count, max(-exponent, 0), max(exponent, 0))


def _axes(shape: Shape, axes: tuple[int, ...]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(extent, stride) of the reduced and of the kept axes; neighbours of a kind are one, extents of 1 are none."""
    strides = View.whole(shape).strides
    wide = [axis for axis in range(len(shape)) if shape[axis] > 1]
    runs: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    for is_reduced, members in groupby(wide, lambda axis: axis - len(shape) in axes):
        run = list(members)
        runs[is_reduced].append((math.prod(shape[axis] for axis in run), strides[run[-1]]))
    return runs[True], runs[False]


def softmax(name: str, operator: Softmax, inputs: list[Shape], _output: Shape) -> Kernel:
    """A micro-kernel a row; exp of every difference that counts is in a table. What a mask hides is 0."""
    constants, depth = Constants(name), inputs[0][-1]
    if depth > SOFTMAX_MAX:
        raise SgscError(f"{name}: softmax over {depth} values cannot be lowered", hint=f"{SOFTMAX_MAX} are the most")
    values = exp_table(operator.input.scale)
    table = constants.integers("exponentials", values)
    size = math.prod(inputs[0])
    rows = operator.causal or size // depth
    with kernel(name, [(size,)], (size,), constants) as built:
        with loops(block=size // depth // rows, row=rows) as (block, row):
            first = (block * rows + row) * depth
            seen = row + 1 if operator.causal else depth
            run("sgsc_softmax", *_row(built, first), seen, built.address(table, 0), len(values))
            if operator.causal > 1:
                run("sgsc_fill", built.place("out", first + seen), depth - seen, operator.output.zero_point)
    return built


def _row(built: Kernel, first: Expression) -> tuple[Expression, Expression]:
    """Where a row of the output and of the input begins."""
    return built.place("out", first), built.place("in0", first)


def layer_norm(name: str, operator: LayerNorm, inputs: list[Shape], _output: Shape) -> Kernel:
    """A micro-kernel a row: exact sums, an integer square root, one division."""
    constants, depth, size = Constants(name), inputs[0][-1], math.prod(inputs[0])
    if depth > LAYER_NORM_MAX:
        raise SgscError(f"{name}: layer norm over {depth} values cannot be lowered", hint=f"{LAYER_NORM_MAX} at most")
    step = operator.input.scale
    epsilons = [math.floor(4**bits * (depth**2 * operator.epsilon / (step * step)) + 0.5) for bits in range(11)]
    fitting = [bits for bits, epsilon in enumerate(epsilons) if epsilon <= 2**61]
    if not fitting:
        raise SgscError(f"{name}: epsilon outweighs what is normalised", hint="use a larger input scale")
    bits = fitting[-1]
    ratio = DoubleRounding.of(2**bits / operator.output.quantisation.scale)
    scale = 2 * bits, *divmod(epsilons[bits], 2**31), ratio.m, ratio.left - ratio.right
    with kernel(name, [(size,)], (size,), constants) as built, loop("row", size // depth) as row:
        run("sgsc_layer_norm", *_row(built, row * depth), depth, *scale, operator.output.zero_point)
    return built


def matmul(name: str, operator: BatchMatMul, inputs: list[Shape], output: Shape) -> Kernel:
    """Dot products of centred values, a micro-kernel a row."""
    constants = Constants(name)
    (left, right), depth = inputs, inputs[0][-1]
    a, b = operator.inputs
    multipliers, bounds = [operator.output.multiplier(a.scale * b.scale)], np.array([depth * a.reach * b.reach])
    requantise = Requantiser(constants, operator.output, multipliers, bounds)
    *batch, rows, columns = output
    with kernel(name, [(math.prod(left),), (math.prod(right),)], output, constants) as built:
        with loops(**{f"b{axis}": extent for axis, extent in enumerate(batch)}) as outer:
            first = dot(_aligned(outer, left), View.whole(left).strides[:-2])
            second = dot(_aligned(outer, right), View.whole(right).strides[:-2])
            with loop("row", rows) as row:
                out = T.address_of(built.output[(*outer, row, 0)])
                factors = built.place("in0", first + row * depth), built.place("in1", second)
                zeros = a.zero_point, b.zero_point
                scale = requantise.arguments(built)
                run(f"sgsc_matmul_{requantise.kind}", out, *factors, depth, columns, *zeros, *scale)
    return built


def _aligned(outer: list[Expression], shape: Shape) -> list[Expression]:
    """The batch position in an operand whose leading axes may be fewer, or 1."""
    leading = shape[:-2]
    return [
        i if extent > 1 else T.int32(0) for i, extent in zip(outer[len(outer) - len(leading) :], leading, strict=True)
    ]
