"""Convolution, grouped or dense: some pixels' activations become rows once and meet every channel's packed weights."""

from __future__ import annotations

import math
from dataclasses import replace

from tvm.script.ir_builder import tirx as T

from sgsc_micro.compiler_flags import Objective
from sgsc_micro.kernels.builder import Kernel, kernel, loop, run
from sgsc_micro.kernels.constants import Constants
from sgsc_micro.kernels.elementwise import Operation, adding
from sgsc_micro.kernels.epilogue import Epilogue
from sgsc_micro.kernels.pack import pack
from sgsc_micro.kernels.rows import ByteRows, LaneRows, Rows
from sgsc_micro.passes.operators import Conv2D, Residual, Weighted
from sgsc_micro.storage import Packing

Shape = tuple[int, ...]


def weighted(name: str, layer: Weighted | Residual, inputs: list[Shape], output: Shape, objective: Objective) -> Kernel:
    """The kernel of a convolution, transposed or not, or of a dense layer; with a residual add at its end or without.

    Scratch holds the rows, and behind them the results that something is added to.

    Errors: ``SgscError`` where an accumulator could leave int32.
    """
    constants = Constants(name)
    scratch, number = layer.scratch_bytes(output, objective), 0
    add: Operation | None = None
    if isinstance(layer, Residual):
        operator, add, number = layer.weighted, adding(layer.add, constants), layer.number
    else:
        operator = layer
    packing, width = Packing.of(objective.instruction_set), output[-2]
    count = operator.rows_at_once(output, objective)
    blocking = operator.blocking(output, objective) if packing is Packing.LANES else None
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
    rows: Rows = ByteRows(operator, image, width, count)
    if blocking is not None:
        rows = LaneRows(operator, image, width, count, blocking)
    reordered_at = rows.scratch_bytes
    values_at = reordered_at + (0 if order is None else count * channels)
    words, groups = pack(rows.streams, operator.widths)
    stream = constants.words("weights", words)
    epilogue = Epilogue(constants, operator, rows.bias)
    places = None if order is None else constants.integers("order", order, ("halves",))
    compute = f"{rows.prefix}_{'pixel' if count == 1 else 'pixels'}_{rows.ending(epilogue)}"
    flat = (pixels, channels)
    with kernel(name, [image, *[flat for _ in inputs[1:]]], flat, constants, scratch) as built:
        built.dots = rows.dots
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
                    to = T.address_of(built.output[first, at] if add is None else built.row[values_at + at])
                    run(
                        compute,
                        to if places is None else T.address_of(built.row[reordered_at]),
                        *([] if count == 1 else [channels, here]),
                        *rows.arguments(built, first, group, alike.widths),
                        built.address(stream, alike.offset + g * alike.words),
                        each,
                        *epilogue.arguments(built, at),
                    )
                    if places is not None:
                        computed = built.place("scratch", reordered_at)
                        run("sgsc_put", to, computed, built.address(places, 0), channels, here)
            if add is not None:
                value = built.place("scratch", values_at), 1
                other = T.address_of(built.input(1)[first, 0]), 1
                operands = [value, other] if number == 0 else [other, value]
                add(built, (T.address_of(built.output[first, 0]), 1), operands, here * channels)
    return built
