"""Convolution, grouped, depthwise or dense: widen some pixels' activations once, meet every channel's packed words."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tvm.script.ir_builder import tirx as T

from sgsc_micro.kernels.builder import Expression, Kernel, kernel, loop, run
from sgsc_micro.kernels.constants import Constants, Entry
from sgsc_micro.kernels.elementwise import Operation, adding
from sgsc_micro.kernels.epilogue import Epilogue
from sgsc_micro.kernels.pack import Layout, Run, dots, pack
from sgsc_micro.passes.operators import Conv2D, Residual, Weighted
from sgsc_micro.storage import MAX_BITS

Shape = tuple[int, ...]


def weighted(name: str, layer: Weighted | Residual, inputs: list[Shape], output: Shape) -> Kernel:
    """The kernel of a convolution, transposed or not, or of a dense layer; with a residual add at its end or without.

    Errors: ``SgscError`` where an accumulator could leave int32.
    """
    constants = Constants(name)
    scratch, number = layer.scratch_bytes(output), 0
    add: Operation | None = None
    if isinstance(layer, Residual):
        operator, add, number = layer.weighted, adding(layer.add, constants), layer.number
    else:
        operator = layer
    rows, width = operator.rows_at_once(output), output[-2]
    if not isinstance(operator, Conv2D):  # a dense layer is a convolution of one tap; its rows are pixels
        kernels = operator.weights[:, None, None, :]
        operator = Conv2D(kernels, operator.scales, operator.bias, operator.input, operator.output)
    pixels, channels = math.prod(output[:-1]), output[-1]
    image = inputs[0]
    if operator.is_pointwise:  # pixel by pixel: the image is one row
        image, width = (1, 1, pixels, image[-1]), pixels
    order = operator.order
    if order is not None:
        parts = operator.weights[order], operator.scales[order], operator.bias[order]
        operator = replace(operator, weights=parts[0], scales=parts[1], bias=parts[2])
    layout = Layout(rows, operator.input.reach)
    words, groups = pack(operator.weights, operator.widths, operator.groups, layout)
    stream = constants.words("weights", words)
    epilogue = Epilogue(constants, operator)
    places = None if order is None else constants.integers("order", order, ("halves",))
    flat = (pixels, channels)
    with kernel(name, [image, *[flat for _ in inputs[1:]]], flat, constants, scratch) as built:
        built.dots = dots(operator.weights, operator.widths, operator.groups, layout)
        body = _Body(built, operator, image, width, rows, stream, epilogue, order is not None)
        body.begin()
        with loop("block", -(-pixels // rows)) as block:
            first = block * rows
            count = T.min(pixels - first, rows) if pixels % rows else rows
            for alike in groups:
                with loop("g", alike.count) as g:
                    channel = (alike.first + g) * len(alike.widths)
                    to = built.output[first, channel] if add is None else built.row[body.values_at + channel]
                    body.gather(first, pixels, count, alike, alike.first + g)
                    body.compute(to if places is None else built.row[body.reordered_at], count, alike, g)
                    if places is not None:
                        computed = built.place("scratch", body.reordered_at)
                        run("sgsc_put", T.address_of(to), computed, built.address(places, 0), channels, count)
            if add is not None:
                value = built.place("scratch", body.values_at), 1
                other = T.address_of(built.input(1)[first, 0]), 1
                operands = [value, other] if number == 0 else [other, value]
                add(built, (T.address_of(built.output[first, 0]), 1), operands, count * channels)
    return built


@dataclass(frozen=True)
class _Body:
    """What happens at a block of output pixels: a group's activations are gathered, then its channels computed.

    Scratch holds the rows, what a kernel row outside of the image reads, rows before they are widened, results.
    """

    built: Kernel
    operator: Conv2D
    image: Shape
    width: int
    """Of the output, in pixels."""
    rows: int
    stream: Entry
    epilogue: Epilogue
    reorders: bool
    """Whether channels are computed in another order than they lie."""

    @property
    def outside_at(self) -> int:
        """Where in scratch it is as outside of the image."""
        return self.rows * self.operator.row_bytes

    @property
    def reordered_at(self) -> int:
        """Where in scratch the results of a block are in the order in which they were computed."""
        return self.outside_at + self.operator.gathered_bytes(self.rows)

    @property
    def values_at(self) -> int:
        """Where in scratch the results of a block are that something is added to."""
        return self.reordered_at + self.reorders * self.rows * len(self.operator.weights)

    def begin(self) -> None:
        """What is the same for all blocks."""
        if self.operator.sees_zeros:
            outside = T.address_of(self.built.row[self.outside_at])
            run("sgsc_fill", outside, self.operator.run, self.operator.input.zero_point)

    def gather(self, first: Expression, pixels: int, count: Expression, alike: Run, group: Expression) -> None:
        """Fill the rows with a group's activations under the kernel; those beyond the last pixel are its own again.

        A group that has no weights left reads nothing.
        """
        if not any(alike.widths):
            return
        operator, built = self.operator, self.built
        kh, kw, depth = operator.weights.shape[1:]
        _, height, width, channels = self.image
        rows, zero_point = T.address_of(built.row[0]), operator.input.zero_point
        if operator.is_pointwise:
            source = T.address_of(built.input()[0, 0, first, group * depth])
            run("sgsc_widen_pixels", rows, self.rows, source, channels, count, depth, zero_point)
            return
        source = T.address_of(built.input()[0, 0, 0, group * depth])
        steps = *operator.strides, *operator.padding[:2], kh, kw, *operator.dilation, *operator.upsample
        image = height, width, channels, depth, zero_point
        scratch = T.address_of(built.row[self.outside_at]), int(operator.copies_taps)
        run("sgsc_gather", rows, self.rows, source, first, pixels - 1, self.width, *steps, *image, *scratch)

    def compute(self, place: Expression, count: Expression, alike: Run, g: Expression) -> None:
        """All channels of a group, into int8 from ``place`` on."""
        operator, built, channels = self.operator, self.built, len(alike.widths)
        offset_binary = any(0 < bits < MAX_BITS for bits in alike.widths)
        arguments = [
            T.address_of(built.row[0]),
            -(-operator.taps // 2) if offset_binary else 0,
            operator.input.zero_point,
            built.address(self.stream, alike.offset + g * alike.words),
            channels,
            *self.epilogue.arguments(built, (alike.first + g) * channels),
        ]
        out = T.address_of(place)
        if self.rows == 1:
            run(f"sgsc_pixel_{self.epilogue.kind}", out, *arguments)
        else:
            run(f"sgsc_pixels_{self.epilogue.kind}", out, len(operator.weights), count, *arguments)
