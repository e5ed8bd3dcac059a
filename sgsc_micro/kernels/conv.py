"""Convolution, grouped, depthwise or dense: widen some pixels' activations once, meet every channel's packed words."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from sgsc_micro.kernels.builder import (
    Expression,
    Kernel,
    Requantiser,
    accumulators,
    bind,
    call,
    kernel,
    loop,
    loops,
    run,
)
from sgsc_micro.kernels.constants import Constants, Entry
from sgsc_micro.kernels.elementwise import Computation, adding
from sgsc_micro.kernels.pack import Run, Segment, blocks, pack, runs
from sgsc_micro.passes.operators import Conv2D, Residual, Weighted

Shape = tuple[int, ...]
ACCUMULATORS = 4
"""What a micro-kernel keeps in registers: pixels times channels."""


def weighted(name: str, operator: Weighted | Residual, inputs: list[Shape], output: Shape) -> Kernel:
    """The kernel of a convolution, transposed or not, or of a dense layer; with a residual add at its end or without.

    Errors: ``SgscError`` where an accumulator could leave int32.
    """
    if isinstance(operator, Residual):
        constants = Constants(name)
        return _convolution(
            operator.weighted, inputs, output, constants, adding(operator.add, constants), operator.number
        )
    return _convolution(operator, inputs, output, Constants(name))


def _convolution(
    operator: Weighted,
    inputs: list[Shape],
    output: Shape,
    constants: Constants,
    add: Computation | None = None,
    number: int = 0,
) -> Kernel:
    """``add`` takes the result as its operand ``number``, and what lies at the same place of the second input."""
    rows, scratch = operator.rows_at_once, operator.scratch_bytes(inputs, output)
    if not isinstance(operator, Conv2D):  # a dense layer is a convolution of one tap; its rows are pixels
        kernels = operator.weights[:, None, None, :]
        operator = Conv2D(kernels, operator.scales, operator.bias, operator.input, operator.output)
    if operator.is_pointwise:  # pixel by pixel: the image is one row
        inputs = [(1, 1, math.prod(shape[:-1]), shape[-1]) for shape in inputs]
        output = (1, 1, math.prod(output[:-1]), output[-1])
    alike = runs(operator.widths, operator.groups, operator.taps, ACCUMULATORS // rows)
    weights = constants.words("weights", pack(operator.weights, alike))
    bias = constants.integers("bias", operator.bias)
    multipliers = [operator.output.multiplier(float(scale)) for scale in operator.accumulator_scales()]
    requantise = Requantiser(constants, operator.output, multipliers, operator.accumulator_bound())
    with kernel(constants.layer, inputs, output, constants, scratch) as built:

        def end(accumulator: Expression, position: list[Expression]) -> Expression:
            value = requantise(built, accumulator, position[-1])
            if add is None:
                return value
            operands = [bind("value", value), built.input(1)[position]]
            return add(built, *(operands if number == 0 else reversed(operands)))

        body = _Body(built, operator, inputs[0], weights, bias, end)
        _, height, width, _ = output
        with loop("oy", height) as oy:
            for first, count, pixels in blocks(width, rows):
                with loop("ox", count) as ox:
                    row = [[oy, first + ox * pixels + pixel] for pixel in range(pixels)]
                    for groups in alike:
                        with loop("g", groups.count) as g:
                            body.emit(row, groups, g)
    return built


@dataclass(frozen=True)
class _Body:
    """What happens at neighbouring output pixels: a group's activations are gathered, then its channels computed."""

    built: Kernel
    operator: Conv2D
    shape: Shape
    weights: Entry
    bias: Entry
    end: Callable[[Expression, list[Expression]], Expression]
    """From an accumulator and its position in the output to the int8 that is stored there."""

    def emit(self, pixels: list[list[Expression]], groups: Run, g: Expression) -> None:
        """Group ``g`` of a run of groups alike; one that has no weights left reads nothing."""
        totals: list[Expression] = [0] * len(pixels)
        if any(segment.bits for segment in groups.segments):
            starts = [number * self.operator.row_bytes for number in range(len(pixels))]
            totals = [self._gather(pixel, start, groups.first + g) for pixel, start in zip(pixels, starts, strict=True)]
        for segment in groups.segments:
            self._segment(pixels, groups, g, segment, totals)

    def _gather(self, pixel: list[Expression], start: int, group: Expression) -> Expression:
        """Fill the row from byte ``start`` with one group's activations under the kernel; their sum."""
        operator, built = self.operator, self.built
        kh, kw, depth = operator.weights.shape[1:]
        (oy, ox), (_, height, width, _) = pixel, self.shape
        top, left, _, _ = operator.padding
        channels = depth * operator.groups
        taps = kw if operator.upsample[1] == 1 else 1  # a kernel row's taps lie evenly in the image, or one by one
        with loops(ky=kh, kx=kw // taps) as (ky, kx):
            y = oy * operator.strides[0] + ky * operator.dilation[0] - top
            x = ox * operator.strides[1] + kx * operator.dilation[1] - left
            iy, inside = _upsampled(y, height, operator.upsample[0])
            ix, inside_x = _upsampled(x, width, operator.upsample[1])
            if taps == 1:
                inside = [*inside, *inside_x]
            lanes = T.address_of(built.row[start + (ky * kw + kx) * depth * 2])

            def widen() -> None:
                source = T.address_of(built.input()[0, iy, 0, group * depth])
                geometry = ix, taps, operator.dilation[1], width, channels
                if depth == 1:
                    run("sgsc_widen_channel", lanes, source, *geometry, operator.input.zero_point)
                else:
                    run("sgsc_widen_taps", lanes, source, *geometry, depth, operator.input.zero_point)

            if operator.sees_zeros:
                with T.If(tirx.all(*inside)):
                    with T.Then():
                        widen()
                    with T.Else():
                        run("sgsc_zero", lanes, taps * depth)
            else:
                widen()
        return bind("total", call("sgsc_sum", T.address_of(built.row[start]), operator.taps))

    def _segment(
        self, pixels: list[list[Expression]], groups: Run, g: Expression, segment: Segment, totals: list[Expression]
    ) -> None:
        """The channels of one stored width: bias, minus what offset binary added, plus each plane's dot product."""
        built, block = self.built, segment.block
        per_group = len(self.operator.weights) // self.operator.groups
        with loop("c", segment.count) as c:
            channels = [(groups.first + g) * per_group + segment.first + c * block + number for number in range(block)]
            rows = zip(totals, pixels, strict=True)
            places = [(total, pixel, channel) for total, pixel in rows for channel in channels]
            sums = [built.load(self.bias, channel) for _, _, channel in places]
            if segment.bits:
                sums = [
                    call("sgsc_sub_shifted", value, total, segment.bits - 1)
                    for value, (total, _, _) in zip(sums, places, strict=True)
                ]
                sums = self._dots(len(pixels), groups, g, segment, c, sums)
            for value, (_, pixel, channel) in zip(sums, places, strict=True):
                position = [tirx.const(0, "int32"), *pixel, channel]
                T.buffer_store(built.output, self.end(value, position), position)

    def _dots(
        self, rows: int, groups: Run, g: Expression, segment: Segment, c: Expression, sums: list[Expression]
    ) -> list[Expression]:
        """``sums``, row after row of one block's channels, plus the dot products of each with each."""
        built, block = self.built, segment.block
        accumulator = accumulators(sums)
        first_word = groups.offset + g * groups.words + segment.offset + c * (block * segment.words)
        for plane in segment.planes:
            run(
                f"sgsc_dot{plane.bits}_{rows}x{block}",
                T.address_of(accumulator[0]),
                T.address_of(built.row[0]),
                self.operator.row_bytes,
                built.address(self.weights, first_word + plane.offset * block),
                plane.words,
                plane.shift,
            )
        return [accumulator[number] for number in range(len(sums))]


def _upsampled(position: Expression, extent: int, factor: int) -> tuple[Expression, list[Expression]]:
    """Where a position lies among ``extent`` values with zeros between; what must hold for it to be a value."""
    inside = [position >= 0, position < (extent - 1) * factor + 1]
    if factor == 1:
        return position, inside
    return T.floordiv(position, factor), [*inside, T.floormod(position, factor) == 0]
