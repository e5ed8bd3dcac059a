"""Depthwise convolution: four channels at a time are widened into planes, then each plane meets its channel's taps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from sgsc_micro import storage
from sgsc_micro.compiler_flags import Objective
from sgsc_micro.kernels.builder import Expression, Kernel, call, kernel, loop, run
from sgsc_micro.kernels.constants import Constants, Entry
from sgsc_micro.kernels.elementwise import Operation, adding
from sgsc_micro.kernels.epilogue import Epilogue
from sgsc_micro.passes.operators import Conv2D, Residual, Weighted
from sgsc_micro.passes.operators.planes import BLOCK, Planes

Shape = tuple[int, ...]


def depthwise(
    name: str, operator: Weighted | Residual, inputs: list[Shape], output: Shape, objective: Objective
) -> Kernel:
    """The kernel of a depthwise convolution, with a residual add at its end or without.

    Errors: ``SgscError`` where an accumulator could leave int32.
    """
    constants, scratch = Constants(name), operator.scratch_bytes(output, objective)
    add: Operation | None = None
    conv, number = operator, 0
    if isinstance(operator, Residual):
        conv, add, number = operator.weighted, adding(operator.add, constants), operator.number
    assert isinstance(conv, Conv2D)
    planes = conv.planes(output)
    stream = constants.integers("weights", stream_of(conv.weights, planes.turned))
    epilogue = Epilogue(constants, conv, conv.bias)
    with kernel(name, inputs, output, constants, scratch) as built:
        _Layer(built, planes, inputs[0], conv.input.zero_point, stream, epilogue, add, number).emit()
    return built


def stream_of(weights: np.ndarray, turned: bool) -> np.ndarray:
    """The channels' widths and taps bit by bit, lowest first, int8; weights int8 [O, kh, kw, 1]."""
    widths = storage.width_of(weights).tolist()
    bits: list[np.ndarray] = []
    for width, channel in zip(widths, weights[..., 0].astype(np.int64), strict=True):
        taps = (channel.T if turned else channel).ravel()
        bits.append(width >> np.arange(storage.WIDTH_BITS) & 1)
        bits.append((taps[:, None] >> np.arange(width) & 1).ravel())
    stream = np.packbits(np.concatenate(bits).astype(np.uint8), bitorder="little")
    size = storage.stream_bytes(widths, weights[0].size)
    return np.pad(stream, (0, size - len(stream))).view(np.int8)


@dataclass(frozen=True)
class _Layer:
    """A block of channels: their taps are widened, and band by band their rows; then each channel is computed."""

    built: Kernel
    planes: Planes
    shape: Shape
    zero_point: int
    stream: Entry
    epilogue: Epilogue
    add: Operation | None
    """Takes the result as its operand ``number``, and what lies at the same place of the second input."""
    number: int

    def emit(self) -> None:
        """Every block. What is no tap and no pixel is zeroed once: nothing else is ever written there."""
        planes, channels = self.planes, self.shape[3]
        kept = planes.kept if planes.bands > 1 else 0
        bit = T.alloc_buffer((1,), "int32")
        IRBuilder.name("bit", bit)
        T.buffer_store(bit, 0, [0])
        run("sgsc_fill", self._scratch(0), planes.accumulators, 0)
        with loop("block", -(-channels // BLOCK)) as block:
            first = block * BLOCK
            lanes = BLOCK if channels % BLOCK == 0 else T.min(channels - first, BLOCK)
            layout = *planes.kernel, 2 * planes.dilation[1], 2 * planes.tap_columns
            stream = self.built.address(self.stream, 0), self.stream.count
            position = call("sgsc_depthwise_taps", self._scratch(0), lanes, *layout, *stream, bit[0])
            T.buffer_store(bit, position, [0])
            if kept:
                self._widen(first, lanes, 0, 0, kept)
            with loop("band", planes.bands) as band:
                start = band * planes.band
                even = planes.output[0] % planes.band == 0
                outputs = planes.band if even else T.min(planes.output[0] - start, planes.band)
                self._widen(first, lanes, start * planes.strides[0], kept, planes.rows(outputs))
                if self.add is None:
                    self._compute(lanes, 0, first, start, outputs)
                else:
                    with loop("c", lanes) as c:
                        self._compute(1, c, first + c, start, outputs)
                        self._add(first + c, start, outputs)
                if kept:
                    self._keep(kept)

    def _scratch(self, offset: Expression) -> Expression:
        return self.built.place("scratch", offset)

    def _plane(self, number: Expression, row: Expression = 0) -> Expression:
        """The address of a row of a plane."""
        planes = self.planes
        return self._scratch(planes.first_plane + number * planes.plane_bytes + row * planes.row_bytes)

    def _turned(self, row: Expression, column: Expression) -> tuple[Expression, Expression]:
        """A place of the walk in the image as it lies, or the other way round."""
        return (column, row) if self.planes.turned else (row, column)

    def _widen(self, channel: Expression, lanes: Expression, start: Expression, begin: int, end: Expression) -> None:
        """Rows ``begin`` to ``end`` of a block's planes; their first is row ``start`` of the padded image."""
        planes, (top, left) = self.planes, self.planes.before
        height, width = self._turned(*self.shape[1:3])
        width = min(width, planes.columns - left)
        if planes.bands == 1:  # the image's own rows: the others stay zero
            begin, end = max(begin, top), min(end, top + height)
            if begin >= end:
                return
        if width <= 0:
            return
        _, _, columns, channels = self.shape
        row_step, step = self._turned(columns * channels, channels)
        target = self._plane(0, begin), planes.plane_bytes, planes.row_bytes, left
        rows = T.address_of(self.built.input()[0, 0, 0, channel]), start + begin - top, start + end - top, height
        run("sgsc_depthwise_widen", *target, *rows, row_step, width, step, lanes, self.zero_point)

    def _compute(
        self, count: Expression, number: Expression, channel: Expression, start: Expression, outputs: Expression
    ) -> None:
        """Rows of output from row ``start`` on of ``count`` channels: to where they belong, or to be added to."""
        built, planes, width = self.built, self.planes, self.planes.output[1]
        accumulators = self._scratch(planes.accumulators)
        place, distances = accumulators, (width, 1)
        if self.add is None:
            _, _, columns, channels = map(int, built.output.shape)
            place = T.address_of(built.output[0, *self._turned(start, 0), channel])
            distances = self._turned(columns * channels, channels)
        run(
            f"sgsc_depthwise_{f'3x3_{planes.strides[1]}' if planes.is_3x3 else 'any'}_{self.epilogue.clamping}",
            *(place, *distances, count, accumulators, outputs, width),
            *(self._plane(number), planes.plane_bytes, self._scratch(number * planes.tap_bytes), planes.tap_bytes),
            *(planes.strides[0] * planes.row_bytes, planes.dilation[0] * planes.row_bytes, 2 * planes.strides[1]),
            *(planes.kernel[0], planes.tap_columns // 2),
            *self.epilogue.arguments(built, channel),
        )

    def _add(self, channel: Expression, start: Expression, outputs: Expression) -> None:
        """The second input to a channel's results, which lie where its accumulators did."""
        built, planes, width = self.built, self.planes, self.planes.output[1]
        assert self.add is not None
        _, _, columns, channels = map(int, built.output.shape)
        _, step = self._turned(columns * channels, channels)
        with loop("y", outputs) as y:
            value = self._scratch(planes.accumulators + y * width), 1
            position = [tirx.const(0, "int32"), *self._turned(start + y, 0), channel]
            other = T.address_of(built.input(1)[position]), step
            operands = [value, other] if self.number == 0 else [other, value]
            self.add(built, (T.address_of(built.output[position]), step), operands, width)

    def _keep(self, rows: int) -> None:
        """A band's last rows, where the next one begins with them."""
        planes = self.planes
        with loop("c", BLOCK) as c:
            last = self._plane(c, planes.band * planes.strides[0])
            run("memmove", self._plane(c), last, rows * planes.row_bytes)
