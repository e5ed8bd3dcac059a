"""Convolution, grouped or dense: some pixels' activations become rows once and meet every channel's packed weights."""

from __future__ import annotations

import math

from tvm.script.ir_builder import tirx as T

from sgsc_micro.kernels.builder import Kernel, bind, kernel, loop, loops, run
from sgsc_micro.kernels.constants import Constants
from sgsc_micro.kernels.elementwise import Computation, adding
from sgsc_micro.kernels.epilogue import Epilogue
from sgsc_micro.kernels.pack import dots, pack
from sgsc_micro.kernels.rows import ROWS
from sgsc_micro.passes.operators import Conv2D, Residual, Weighted
from sgsc_micro.storage import Packing

Shape = tuple[int, ...]


def weighted(name: str, layer: Weighted | Residual, inputs: list[Shape], output: Shape, packing: Packing) -> Kernel:
    """The kernel of a convolution, transposed or not, or of a dense layer; with a residual add at its end or without.

    Scratch holds the rows, and behind them the results that something is added to.

    Errors: ``SgscError`` where an accumulator could leave int32.
    """
    constants = Constants(name)
    scratch, number = layer.scratch_bytes(output, packing), 0
    add: Computation | None = None
    if isinstance(layer, Residual):
        operator, add, number = layer.weighted, adding(layer.add, constants), layer.number
    else:
        operator = layer
    count, width = operator.rows_at_once(output), output[-2]
    if not isinstance(operator, Conv2D):  # a dense layer is a convolution of one tap; its rows are pixels
        kernels = operator.weights[:, None, None, :]
        operator = Conv2D(kernels, operator.scales, operator.bias, operator.input, operator.output)
    pixels, channels = math.prod(output[:-1]), output[-1]
    image = inputs[0]
    if operator.is_pointwise:  # pixel by pixel: the image is one row
        image, width = (1, 1, pixels, image[-1]), pixels
    rows = ROWS[packing](operator, image, width, count)
    words, groups = pack(operator.weights, operator.widths, operator.groups, rows.layout)
    stream = constants.words("weights", words)
    epilogue = Epilogue(constants, operator, rows.bias)
    compute = f"{rows.prefix}_{'pixel' if count == 1 else 'pixels'}_{epilogue.kind}"
    flat = (pixels, channels)
    with kernel(name, [image, *[flat for _ in inputs[1:]]], flat, constants, scratch) as built:
        built.dots = dots(operator.weights, operator.widths, operator.groups, rows.layout)
        rows.begin(built)
        with loop("block", -(-pixels // count)) as block:
            first = block * count
            here = T.min(pixels - first, count) if pixels % count else count
            for alike in groups:
                with loop("g", alike.count) as g:
                    group, each = alike.first + g, len(alike.widths)
                    if any(alike.widths):  # one that has no weights left reads nothing
                        rows.gather(built, first, pixels, here, group)
                    at = group * each
                    place = built.output[first, at] if add is None else built.row[rows.scratch_bytes + at]
                    run(
                        compute,
                        T.address_of(place),
                        *([] if count == 1 else [channels, here]),
                        *rows.arguments(built, first, group, alike.widths),
                        built.address(stream, alike.offset + g * alike.words),
                        each,
                        *epilogue.arguments(built, at),
                    )
            if add is not None:
                with loops(pixel=here, channel=channels) as (pixel, channel):
                    value = bind("value", built.row[rows.scratch_bytes + pixel * channels + channel])
                    operands = [value, built.input(1)[first + pixel, channel]]
                    result = add(built, *(operands if number == 0 else reversed(operands)))
                    T.buffer_store(built.output, result, [first + pixel, channel])
    return built
