"""Convolution, grouped, depthwise or dense: widen some pixels' activations once, meet every channel's packed words."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from sgsc_micro.kernels.builder import Expression, Kernel, kernel, loop, loops, run
from sgsc_micro.kernels.constants import Constants, Entry
from sgsc_micro.kernels.elementwise import Operation, adding
from sgsc_micro.kernels.epilogue import Epilogue
from sgsc_micro.kernels.pack import Run, dots, pack
from sgsc_micro.passes.operators import Conv2D, Residual, Weighted
from sgsc_micro.storage import MAX_BITS

Shape = tuple[int, ...]
TOGETHER = 4
"""Dot products of one micro-kernel: of so many rows with a channel, or of one row with so many channels."""


def weighted(name: str, operator: Weighted | Residual, inputs: list[Shape], output: Shape) -> Kernel:
    """The kernel of a convolution, transposed or not, or of a dense layer; with a residual add at its end or without.

    Errors: ``SgscError`` where an accumulator could leave int32.
    """
    constants = Constants(name)
    scratch, number = operator.scratch_bytes(output), 0
    add: Operation | None = None
    if isinstance(operator, Residual):
        operator, add, number = operator.weighted, adding(operator.add, constants), operator.number
    rows, width = operator.rows_at_once(output), output[-2]
    if not isinstance(operator, Conv2D):  # a dense layer is a convolution of one tap; its rows are pixels
        kernels = operator.weights[:, None, None, :]
        operator = Conv2D(kernels, operator.scales, operator.bias, operator.input, operator.output)
    pixels, channels = math.prod(output[:-1]), output[-1]
    image = inputs[0]
    if operator.is_pointwise:  # pixel by pixel: the image is one row
        image, width = (1, 1, pixels, image[-1]), pixels
    together = 1 if rows > 1 else TOGETHER
    words, groups = pack(operator.weights, operator.widths, operator.groups, together)
    stream = constants.words("weights", words)
    epilogue = Epilogue(constants, operator)
    flat = (pixels, channels)
    with kernel(name, [image, *[flat for _ in inputs[1:]]], flat, constants, scratch) as built:
        built.dots = dots(groups, operator.taps, together)
        layer = _Layer(built, operator, image, width, rows, stream, epilogue)
        with loop("block", -(-pixels // rows)) as block:
            first = block * rows
            count = T.min(pixels - first, rows) if pixels % rows else rows
            for alike in groups:
                with loop("g", alike.count) as g:
                    channel = (alike.first + g) * len(alike.widths)
                    place = built.output[first, channel] if add is None else built.row[layer.values_at + channel]
                    layer.gather(first, pixels, alike, alike.first + g)
                    layer.compute(place, count, alike, g)
            if add is not None:
                value = built.place("scratch", layer.values_at), 1
                other = T.address_of(built.input(1)[first, 0]), 1
                operands = [value, other] if number == 0 else [other, value]
                add(built, T.address_of(built.output[first, 0]), operands, count * channels)
    return built


@dataclass(frozen=True)
class _Layer:
    """What happens at a block of output pixels: a group's activations are gathered, then its channels computed."""

    built: Kernel
    operator: Conv2D
    image: Shape
    width: int
    """Of the output, in pixels."""
    rows: int
    stream: Entry
    epilogue: Epilogue

    @property
    def copied_at(self) -> int:
        """Where in scratch a row's activations are copied together."""
        return self.rows * self.operator.row_bytes

    @property
    def values_at(self) -> int:
        """Where in scratch the results of a block are that something is added to."""
        return self.copied_at + self.operator.copies_taps * self.operator.taps

    def gather(self, first: Expression, pixels: int, alike: Run, group: Expression) -> None:
        """Fill the rows with a group's activations under the kernel; those beyond the last pixel are its own again.

        A group that has no weights left reads nothing.
        """
        if not any(alike.widths):
            return
        with loop("row", self.rows) as number:
            pixel = first + number
            if pixels % self.rows:
                pixel = T.min(pixel, pixels - 1)
            self._gather(pixel, number * 4, group)

    def compute(self, place: Expression, count: Expression, alike: Run, g: Expression) -> None:
        """All channels of a group, into int8 from ``place`` on."""
        operator, built, channels = self.operator, self.built, len(alike.widths)
        offset_binary = any(0 < bits < MAX_BITS for bits in alike.widths)
        arguments = [
            T.address_of(built.row[0]),
            -(-operator.taps // 2) if offset_binary else 0,
            built.address(self.stream, alike.offset + g * alike.words),
            channels,
            *self.epilogue.arguments(built, (alike.first + g) * channels),
        ]
        out = T.address_of(place)
        if self.rows == 1:
            run(f"sgsc_pixel_{self.epilogue.kind}", out, *arguments)
        else:
            run(f"sgsc_pixels_{self.epilogue.kind}", out, len(operator.weights), count, *arguments)

    def _gather(self, pixel: Expression, start: Expression, group: Expression) -> None:
        """One row, from byte ``start``. Taps that do not fill words are copied together first."""
        operator, built = self.operator, self.built
        kh, kw, depth = operator.weights.shape[1:]
        _, height, width, channels = self.image
        zero_point = operator.input.zero_point
        top, left, _, _ = operator.padding
        oy, ox = T.floordiv(pixel, self.width), T.floormod(pixel, self.width)
        taps = kw if operator.upsample[1] == 1 else 1  # a kernel row's taps lie evenly in the image, or one by one
        copies, step = operator.copies_taps, 4 * self.rows
        with loops(ky=kh, kx=kw // taps) as (ky, kx):
            y = oy * operator.strides[0] + ky * operator.dilation[0] - top
            x = ox * operator.strides[1] + kx * operator.dilation[1] - left
            iy, inside = _upsampled(y, height, operator.upsample[0])
            ix, inside_x = _upsampled(x, width, operator.upsample[1])
            if taps == 1:
                inside = [*inside, *inside_x]
            tap = (ky * kw + kx) * depth
            at = self.copied_at + tap if copies else start + T.floordiv(tap, 2) * step
            to = [T.address_of(built.row[at])] if copies else [T.address_of(built.row[at]), step]
            geometry = ix, taps, operator.dilation[1], width, channels, depth, zero_point

            def move() -> None:
                source = T.address_of(built.input()[0, iy, 0, group * depth])
                run("sgsc_copy_taps" if copies else "sgsc_widen_taps", *to, source, *geometry)

            def fill() -> None:
                if copies:
                    run("sgsc_fill", *to, taps * depth, zero_point)
                else:
                    run("sgsc_zero", *to, taps * depth)

            if operator.sees_zeros:
                with T.If(tirx.all(*inside)):
                    with T.Then():
                        move()
                    with T.Else():
                        fill()
            else:
                move()
        if copies:
            copied = T.address_of(built.row[self.copied_at])
            run("sgsc_widen", T.address_of(built.row[start]), step, copied, operator.taps, zero_point)


def _upsampled(position: Expression, extent: int, factor: int) -> tuple[Expression, list[Expression]]:
    """Where a position lies among ``extent`` values with zeros between; what must hold for it to be a value."""
    inside = [position >= 0, position < (extent - 1) * factor + 1]
    if factor == 1:
        return position, inside
    return T.floordiv(position, factor), [*inside, T.floormod(position, factor) == 0]
