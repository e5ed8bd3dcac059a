"""Random int8 TFLite models: every operator, odd shapes, extreme scales and zero points."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from tests.tflite_draws import Draws, parameters_of
from tests.tflite_models import ModelWriter, Quantization, Tensor

LARGEST = 2000
"""Values of an activation; a model with a larger one is drawn anew."""

SOFTMAX_MOST = 511
"""Values of a softmax: with more, all alike, tflite-micro ends the process."""

RANKS = {
    **dict.fromkeys(
        ["conv_2d", "grouped_conv_2d", "depthwise_conv_2d", "conv_2d_int4", "depthwise_conv_2d_int4"], (4,)
    ),
    **dict.fromkeys(["transpose_conv", "average_pool_2d", "max_pool_2d"], (4,)),
    **dict.fromkeys(["resize_bilinear", "resize_nearest_neighbor"], (4,)),
    **dict.fromkeys(["unpack", "squeeze", "batch_matmul"], (3, 4)),
    **dict.fromkeys(["expand_dims", "pack"], (2, 3)),
    **dict.fromkeys(["fully_connected", "fully_connected_int4", "add", "sub", "mul"], (2, 3, 4)),
    **dict.fromkeys(["softmax", "logistic", "tanh", "relu", "relu6", "leaky_relu", "hard_swish"], (2, 3, 4)),
    **dict.fromkeys(["quantize", "mean", "pad", "padv2", "reshape", "transpose"], (2, 3, 4)),
    **dict.fromkeys(["concatenation", "split", "split_v", "slice", "strided_slice"], (2, 3, 4)),
}
"""Every kind of :data:`KINDS` and the ranks of its input."""

KINDS = list(RANKS)
"""What :func:`random_model` draws from; each is a method of :class:`GraphDrawer`."""

FLOAT_KINDS = ["quantize_float", "dequantize"]
"""Models that begin or end in float32: of :func:`single_operator_models` only."""


class GraphDrawer(Draws):
    """Draws operators with their constants; every method takes and gives an int8 tensor of batch 1, mostly."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng)
        self.writer = ModelWriter()
        self.earlier: list[Tensor] = []

    def draw(self, kind: str, x: Tensor) -> Tensor:
        """One operator of ``kind`` behind ``x``, which is reshaped first where its rank does not suit."""
        self.earlier.append(x)
        written: Tensor = getattr(self, kind)(self.of_rank(x, RANKS[kind]))
        return written

    def of_rank(self, x: Tensor, ranks: Sequence[int]) -> Tensor:
        """``x``, reshaped to batch 1 and a rank of ``ranks`` where it has another."""
        if len(x.shape) in ranks and x.shape[0] == 1:
            return x
        return self.reshaped(x, self._factors(x.size, self._choice(ranks)))

    def reshaped(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """By a shape tensor, with one side left open or not, or by the option alone."""
        if self._chance(0.3):
            return self.writer.arranged("RESHAPE", x, shape, newShape=list(shape))
        told = list(shape)
        if self._chance(0.5):
            told[self._draw(0, len(told))] = -1
        return self.writer.arranged("RESHAPE", x, shape, self.writer.constant(told), newShape=told)

    # Layers with weights.

    def conv_2d(self, x: Tensor, groups: int = 1, bits: int = 8) -> Tensor:
        """Always with a bias: LiteRT asks for one."""
        window = self._window(x)
        depth = x.shape[3] // groups
        weights = self._weights((groups * self._draw(1, 9 // groups + 1), *window.pop("size"), depth), 0, bits)
        scales, bias, output = self._scaled(x, weights, 0, biased=True)
        write, kind = self.writer.conv_2d, f"int{bits}"
        return write(x, weights, scales, bias, output, **window, activation=self._fused(output), weight_type=kind)

    def grouped_conv_2d(self, x: Tensor) -> Tensor:
        """Over twice the channels where their number has no divisor."""
        if not any(x.shape[3] % groups == 0 for groups in range(2, 10)):
            x = self.writer.joined("CONCATENATION", [x, x], 3)
        return self.conv_2d(x, self._choice([groups for groups in range(2, 10) if x.shape[3] % groups == 0]))

    def conv_2d_int4(self, x: Tensor) -> Tensor:
        return self.conv_2d(x, bits=4)

    def depthwise_conv_2d(self, x: Tensor, bits: int = 8) -> Tensor:
        window = self._window(x)
        multiplier = self._choice([1, 1, 2, 3])
        weights = self._weights((1, *window.pop("size"), x.shape[3] * multiplier), 3, bits)
        scales, bias, output = self._scaled(x, weights, 3)
        write, kind = self.writer.depthwise_conv_2d, f"int{bits}"
        return write(x, weights, scales, bias, output, **window, activation=self._fused(output), weight_type=kind)

    def depthwise_conv_2d_int4(self, x: Tensor) -> Tensor:
        return self.depthwise_conv_2d(x, bits=4)

    def fully_connected(self, x: Tensor, bits: int = 8) -> Tensor:
        """Over all values, or over rows of the last axis; 4-bit weights have one scale in tflite-micro."""
        whole = self._chance(0.5)
        depth = x.size if whole else x.shape[-1]
        weights = self._weights((self._draw(1, 2 + min(12, 2 * LARGEST // depth)), depth), 0, bits)
        scales, bias, output = self._scaled(x, weights, 0, single=bits == 4 or self._chance(0.5))
        kept = not whole and self._chance(0.8)
        write, kind = self.writer.fully_connected, f"int{bits}"
        return write(
            x, weights, scales, bias, output, keep_num_dims=kept, activation=self._fused(output), weight_type=kind
        )

    def fully_connected_int4(self, x: Tensor) -> Tensor:
        return self.fully_connected(x, bits=4)

    def transpose_conv(self, x: Tensor) -> Tensor:
        """To any height and width that a convolution would take back to the input's."""
        size, strides = self._pair(1, 4), self._pair(1, 4)
        padding = self._choice(["SAME", "VALID"])
        sides = []
        for side, kernel, stride in zip(x.shape[1:3], size, strides):
            least = (side - 1) * stride + (1 if padding == "SAME" else kernel)
            sides.append(self._draw(least, least + stride))
        weights = self._weights((self._draw(1, 7), *size, x.shape[3]), 0, 8)
        scales, bias, output = self._scaled(x, weights, 0)
        write = self.writer.transpose_conv
        return write(x, weights, scales, bias, output, (sides[0], sides[1]), strides=strides, padding=padding)

    def batch_matmul(self, x: Tensor) -> Tensor:
        """With a constant, with itself or with its transpose."""
        rows, columns = x.shape[-2:]
        case = self._draw(0, 4)
        adj_x, adj_y = self._chance(0.5), self._chance(0.5)
        if case == 0:
            adj_x = not adj_y
            other = x
        elif case == 1:
            adj_x, adj_y, other = False, False, self._turned(x)
        else:
            shape = (rows if adj_x else columns, self._draw(1, 9))
            batch = x.shape[:-2] if self._chance(0.5) else ()
            values = self.rng.integers(-128, 128, (*batch, *(shape[::-1] if adj_y else shape)))
            other = self.writer.constant(values, self.quantization())
        depth = rows if adj_x else columns
        spread = parameters_of(x).scale * parameters_of(other).scale * 100 * 100 * math.sqrt(depth) / 60
        least = parameters_of(x).scale * parameters_of(other).scale * 256 * 256 * depth / 2**29
        output = Quantization(max(spread * 10 ** self.rng.uniform(-0.5, 0.5), least), self._zero_point())
        return self.writer.batch_matmul(x, other, output, adj_x, adj_y)

    # Element by element.

    def add(self, x: Tensor) -> Tensor:
        return self._binary("ADD", x)

    def sub(self, x: Tensor) -> Tensor:
        return self._binary("SUB", x)

    def mul(self, x: Tensor) -> Tensor:
        return self._binary("MUL", x)

    def softmax(self, x: Tensor) -> Tensor:
        """Over the last axis; half the time behind a scale at which more than one value counts."""
        if self._chance(0.5):
            x = self._rescaled(x, Quantization(float(self.rng.uniform(0.01, 0.2)), self._zero_point()))
        if x.shape[-1] > SOFTMAX_MOST:
            x = self.writer.arranged(
                "SLICE", x, (*x.shape[:-1], 9), self.writer.constant([0] * len(x.shape)),
                self.writer.constant([*x.shape[:-1], 9]),
            )  # fmt: skip
        return self.writer.unary("SOFTMAX", x, Quantization(1 / 256, -128), beta=1.0)

    def logistic(self, x: Tensor) -> Tensor:
        return self.writer.unary("LOGISTIC", x, Quantization(1 / 256, -128))

    def tanh(self, x: Tensor) -> Tensor:
        return self.writer.unary("TANH", x, Quantization(1 / 128, 0))

    def relu(self, x: Tensor) -> Tensor:
        return self.writer.unary("RELU", x, self._near(x))

    def relu6(self, x: Tensor) -> Tensor:
        """tflite-micro's does not re-scale: input and output share their parameters."""
        return self.writer.unary("RELU6", x, parameters_of(x))

    def leaky_relu(self, x: Tensor) -> Tensor:
        return self.writer.unary("LEAKY_RELU", x, self._near(x), alpha=float(self.rng.choice([0.01, 0.1, 0.3, 0.9])))

    def hard_swish(self, x: Tensor) -> Tensor:
        """The output scale at least 1/128 of the input's: Prepare asks for it."""
        return self.writer.unary("HARD_SWISH", x, self._near(x))

    def quantize(self, x: Tensor) -> Tensor:
        return self._rescaled(x, self._near(x))

    # Windows and sums.

    def average_pool_2d(self, x: Tensor) -> Tensor:
        return self._pool("AVERAGE_POOL_2D", x)

    def max_pool_2d(self, x: Tensor) -> Tensor:
        return self._pool("MAX_POOL_2D", x)

    def mean(self, x: Tensor) -> Tensor:
        """Over any axes but the first, height and width the more often."""
        rank = len(x.shape)
        some = self.rng.permutation(np.arange(1, rank))[: self._draw(1, rank)]
        axes = [1, 2] if rank == 4 and self._chance(0.5) else [int(axis) for axis in some]
        axes = [axis - rank if self._chance(0.2) else axis for axis in axes]
        return self.writer.mean(x, axes, self._near(x), keep_dims=self._chance(0.5))

    def resize_bilinear(self, x: Tensor) -> Tensor:
        return self._resize("RESIZE_BILINEAR", x)

    def resize_nearest_neighbor(self, x: Tensor) -> Tensor:
        return self._resize("RESIZE_NEAREST_NEIGHBOR", x)

    # Values moved.

    def pad(self, x: Tensor) -> Tensor:
        widths = self._pad_widths(x)
        return self.writer.arranged("PAD", x, _padded(x, widths), self.writer.constant(widths))

    def padv2(self, x: Tensor) -> Tensor:
        widths = self._pad_widths(x)
        value = self.writer.constant(np.asarray([self._draw(-128, 128)]), parameters_of(x))
        return self.writer.arranged("PADV2", x, _padded(x, widths), self.writer.constant(widths), value)

    def reshape(self, x: Tensor) -> Tensor:
        """To any rank up to 4, at times without the batch axis."""
        shape = self._factors(x.size, self._draw(2, 5))
        return self.reshaped(x, shape[1:] if len(shape) > 2 and self._chance(0.2) else shape)

    def expand_dims(self, x: Tensor) -> Tensor:
        axis = self._draw(1, len(x.shape) + 1)
        told = axis - len(x.shape) - 1 if self._chance(0.3) else axis
        shape = (*x.shape[:axis], 1, *x.shape[axis:])
        return self.writer.arranged("EXPAND_DIMS", x, shape, self.writer.constant([told]))

    def squeeze(self, x: Tensor) -> Tensor:
        """Of an axis of 1 behind the batch; one is made where there is none."""
        if 1 not in x.shape[1:]:
            axis = self._draw(1, len(x.shape))
            begin = [self._draw(0, side) if place == axis else 0 for place, side in enumerate(x.shape)]
            size = [1 if place == axis else side for place, side in enumerate(x.shape)]
            x = self.writer.arranged("SLICE", x, size, self.writer.constant(begin), self.writer.constant(size))
        axes = [axis for axis, side in enumerate(x.shape) if axis and side == 1][: len(x.shape) - 2]
        shape = [side for axis, side in enumerate(x.shape) if axis not in axes]
        if max(shape) == 1 or self._chance(0.7):
            axes = [axis - len(x.shape) if self._chance(0.2) else axis for axis in axes]
            return self.writer.arranged("SQUEEZE", x, shape, squeezeDims=axes)
        return self.writer.arranged("SQUEEZE", x, [side for side in shape if side > 1], squeezeDims=[])

    def transpose(self, x: Tensor) -> Tensor:
        axes = [0, *(int(axis) for axis in self.rng.permutation(np.arange(1, len(x.shape))))]
        return self.writer.arranged("TRANSPOSE", x, [x.shape[axis] for axis in axes], self.writer.constant(axes))

    def concatenation(self, x: Tensor) -> Tensor:
        """Of 2 to 4 tensors, any of them a constant, ``x`` again, or an earlier tensor."""
        parts = [self._companion(x) for _ in range(self._draw(1, 4))]
        parts.insert(self._draw(0, len(parts) + 1), x)
        return self.writer.joined("CONCATENATION", parts, self._draw(1, len(x.shape)))

    def split(self, x: Tensor) -> Tensor:
        """Into equal parts; one of them goes on, or two, joined the other way round."""
        axis = self._draw(1, len(x.shape))
        divisors = [parts for parts in range(1, 10) if x.shape[axis] % parts == 0]
        parts = int(self.rng.choice(divisors))
        return self._rejoined(self.writer.split(x, [x.shape[axis] // parts] * parts, axis, sized=False), axis)

    def split_v(self, x: Tensor) -> Tensor:
        axis = self._draw(1, len(x.shape))
        cuts = (
            np.unique(self.rng.integers(1, x.shape[axis], self._draw(1, 4))) if x.shape[axis] > 1 else np.array([], int)
        )
        sizes = np.diff([0, *cuts, x.shape[axis]]).tolist()
        return self._rejoined(self.writer.split(x, sizes, axis, sized=True), axis)

    def pack(self, x: Tensor) -> Tensor:
        parts = [x, *(self._companion(x) for _ in range(self._draw(0, 3)))]
        return self.writer.joined("PACK", parts, self._draw(1, len(x.shape) + 1))

    def unpack(self, x: Tensor) -> Tensor:
        axis = self._draw(1, len(x.shape))
        return self._rejoined(self.writer.unpack(x, axis), self._draw(1, len(x.shape) - 1))

    def slice(self, x: Tensor) -> Tensor:
        begin = [0, *(self._draw(0, side) for side in x.shape[1:])]
        size = [self._draw(1, side - first + 1) for side, first in zip(x.shape, begin)]
        told = [
            -1 if first + count == side and self._chance(0.5) else count
            for first, count, side in zip(begin, size, x.shape)
        ]
        return self.writer.arranged("SLICE", x, size, self.writer.constant(begin), self.writer.constant(told))

    def strided_slice(self, x: Tensor) -> Tensor:
        """Any part, steps and masks; backwards too; ends beyond the tensor and counted from its end."""
        begins, ends, strides, shape = [0], [1], [1], [x.shape[0]]
        masks = {"beginMask": 1, "endMask": 1, "shrinkAxisMask": 0}
        for axis, side in enumerate(x.shape[1:], 1):
            begin, stride = self._draw(0, side), self._choice([1, 1, 2, 3, -1, -2])
            if len(shape) > 1 and self._chance(0.15):
                begins, ends, strides = [*begins, begin], [*ends, begin + 1], [*strides, 1]
                masks["shrinkAxisMask"] |= 1 << axis
                continue
            end = self._draw(begin + 1, side + 3) if stride > 0 else self._draw(-side - 2, begin - side)
            first, last = self._chance(0.3), self._chance(0.3)
            masks["beginMask"] |= first << axis
            masks["endMask"] |= last << axis
            shape.append(len(range(side)[None if first else begin : None if last else end : stride]))
            begins.append(begin - side if self._chance(0.3) else begin)
            ends.append(end)
            strides.append(stride)
        operands = [self.writer.constant(values) for values in (begins, ends, strides)]
        return self.writer.arranged("STRIDED_SLICE", x, shape, *operands, **masks)

    # What several kinds write.

    def _pool(self, code: str, x: Tensor) -> Tensor:
        window = self._window(x)
        size = min(window["size"][0], x.shape[1]), min(window["size"][1], x.shape[2])
        return self.writer.pool(code, x, size, window["strides"], window["padding"], self._fused(parameters_of(x)))

    def _resize(self, code: str, x: Tensor) -> Tensor:
        align_corners, half_pixel = self._choice([(False, False), (True, False), (False, True)])
        return self.writer.resize(code, x, self._pair(1, 13), align_corners, half_pixel)

    def _binary(self, code: str, x: Tensor) -> Tensor:
        other = self._operand(x)
        scales = parameters_of(x).scale, parameters_of(other).scale
        spread = scales[0] * scales[1] * 100 if code == "MUL" else max(scales)
        output = Quantization(spread * 10 ** self.rng.uniform(-0.5, 0.5), self._zero_point())
        pair = (x, other) if self._chance(0.5) else (other, x)
        return self.writer.binary(code, *pair, output, self._fused(output))

    def _operand(self, x: Tensor) -> Tensor:
        """An earlier tensor, ``x`` or something made of it, or a constant; of its shape or to be broadcast."""
        case = self._draw(0, 5)
        same = [tensor for tensor in self.earlier if tensor.shape == x.shape and tensor is not x]
        if case < 2 and same:
            return self._choice(same)
        if case == 2:
            return x if self._chance(0.3) else self.leaky_relu(x)
        if case == 3 and len(x.shape) == 4:
            return self.writer.mean(x, [1, 2], self._near(x))
        scale = parameters_of(x).scale * 10 ** (
            self.rng.uniform(-4, 4) if self._chance(0.1) else self.rng.uniform(-1, 1)
        )
        values = self.rng.integers(-128, 128, self._broadcast(x.shape))
        return self.writer.constant(values, Quantization(scale, self._zero_point()))

    def _companion(self, x: Tensor, broadcast: bool = False) -> Tensor:
        """A tensor of the shape and the parameters of ``x``."""
        case = self._draw(0, 3)
        same = [tensor for tensor in self.earlier if tensor.shape == x.shape]
        if case == 0:
            shape = self._broadcast(x.shape) if broadcast else x.shape
            return self.writer.constant(self.rng.integers(-128, 128, shape), parameters_of(x))
        if case == 1 and same:
            chosen = self._choice(same)
            return chosen if chosen.quantization == x.quantization else self._rescaled(chosen, parameters_of(x))
        return x if self._chance(0.3) else self._rescaled(x, parameters_of(x), self._near(x))

    def _rescaled(self, x: Tensor, *steps: Quantization) -> Tensor:
        """QUANTIZE to the last of ``steps``, by way of the others."""
        for output in reversed(steps):
            x = self.writer.unary("QUANTIZE", x, output)
        return x

    def _rejoined(self, parts: list[Tensor], axis: int) -> Tensor:
        """One part, the others left unread, or two of them."""
        first, last = parts[0], parts[-1]
        return first if self._chance(0.5) else self.writer.joined("CONCATENATION", [last, first], axis)

    def _turned(self, x: Tensor) -> Tensor:
        """The last two axes swapped."""
        axes = [*range(len(x.shape) - 2), len(x.shape) - 1, len(x.shape) - 2]
        return self.writer.arranged("TRANSPOSE", x, [x.shape[axis] for axis in axes], self.writer.constant(axes))


def _padded(x: Tensor, widths: np.ndarray) -> list[int]:
    return [side + int(width) for side, width in zip(x.shape, widths.sum(1))]


def _input_shape(rng: np.random.Generator, rank: int) -> tuple[int, ...]:
    """Batch 1, odd sides, at times many channels."""
    channels = int(rng.integers(17, 41)) if rng.random() < 0.15 else int(rng.integers(1, 10))
    shape = (1, *(int(side) for side in rng.integers(1, 10, rank - 2)), channels)
    return shape if math.prod(shape) <= LARGEST else _input_shape(rng, rank)


def _inputs(rng: np.random.Generator, shape: Sequence[int], count: int = 3) -> np.ndarray:
    """Random rows, one of narrow values, one of the extremes."""
    rows = rng.integers(-128, 128, (count, *shape[1:]))
    rows[0] = rng.integers(-20, 21, shape[1:]) + int(rng.integers(-100, 100))
    rows[1] = rng.choice([-128, 127], shape[1:])
    return rows.astype(np.int8)


def random_model(seed: int) -> tuple[bytes, np.ndarray]:
    """A model of 1 to 6 drawn operators and int8 inputs [3, ...] for it, of its shape without the batch axis."""
    return model_of(seed, kinds_of(seed))


def kinds_of(seed: int) -> list[str]:
    """The operators drawn for a seed."""
    rng = np.random.default_rng([seed, 0])
    return [str(kind) for kind in rng.choice(KINDS, int(rng.integers(1, 7)))]


def model_of(seed: int, kinds: Sequence[str]) -> tuple[bytes, np.ndarray]:
    """A model of these operators, all else drawn from the seed."""
    return _model(np.random.default_rng([seed, 1]), kinds)


def single_operator_models(kind: str, rng: np.random.Generator, count: int = 5) -> Iterator[tuple[bytes, np.ndarray]]:
    """``count`` models of one operator of ``kind`` (of KINDS or FLOAT_KINDS), and inputs [3, ...] for each.

    Few kinds need a helper beside it: a constant's or an operand's QUANTIZE, the CONCATENATION of a split's parts.
    "quantize_float" takes float32 and gives int8, "dequantize" the other way round.
    """
    for _ in range(count):
        if kind in FLOAT_KINDS:
            yield _float_model(rng, kind)
        else:
            yield _model(rng, [kind])


def _model(rng: np.random.Generator, kinds: Sequence[str]) -> tuple[bytes, np.ndarray]:
    while True:
        drawer = GraphDrawer(rng)
        shape = _input_shape(rng, int(rng.choice(RANKS[kinds[0]])))
        image = source = drawer.writer.activation(shape, drawer.quantization())
        for kind in kinds:
            image = drawer.draw(kind, image)
        if _bounded(drawer.writer):
            return drawer.writer.bytes([source], [image]), _inputs(rng, shape)


def _bounded(writer: ModelWriter) -> bool:
    """No large activation, and no scale far beyond those drawn: a chain of products could leave float32."""
    activations = [tensor for tensor in writer.tensors if tensor.buffer == 0]
    sizes = [math.prod(tensor.shape) for tensor in activations]
    scales = [float(tensor.quantization.scale[0]) for tensor in activations]
    return max(sizes) <= LARGEST and 1e-6 < min(scales) and max(scales) < 1e3


def _float_model(rng: np.random.Generator, kind: str) -> tuple[bytes, np.ndarray]:
    drawer = GraphDrawer(rng)
    writer, shape = drawer.writer, _input_shape(rng, int(rng.integers(2, 5)))
    real = writer.tensor(shape, "float32")
    q = writer.activation(shape, drawer.quantization())
    if kind == "dequantize":
        writer.operator("DEQUANTIZE", [q], [real])
        return writer.bytes([q], [real]), _inputs(rng, shape)
    writer.operator("QUANTIZE", [real], [q])
    scale, zero_point = parameters_of(q)
    halves = rng.integers(-300, 300, (3, *shape[1:])) / 2  # ties, and values beyond the range
    reals = np.where(rng.random(halves.shape) < 0.5, halves, rng.uniform(-140, 140, halves.shape)) - zero_point
    return writer.bytes([real], [q]), (reals * scale).astype(np.float32)
