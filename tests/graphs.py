"""Random quantised graphs in the one form, for tests that compare a compiler stage with the reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tvm
from tvm import relax

from sgsc_micro.ir import shape_of, with_rounding

Image = tuple[relax.Expr, float, int]
"""int8 tensor [1, H, W, C], its scale and zero point."""


KINDS = [
    "conv",
    "depthwise",
    "grouped",
    "transposed",
    "rows",
    "residual",
    "twice",
    "broadcast",
    "gate",
    "requantize",
    "lookup",
    "softmax",
    "causal",
    "layer_norm",
    "embedding",
    "max_pool",
    "avg_pool",
    "mean",
    "matmul",
    "bilinear",
    "pad",
    "permute",
    "concat",
    "slice",
    "take",
]
"""Every operator of the one form, by the method that draws one."""

LARGEST = 2048
"""Values of a tensor; a larger one is pooled before the graph goes on."""


class GraphBuilder:
    """Emits QDQ operators with constants drawn from ``rng``; every method takes and gives an int8 image."""

    def __init__(self, rng: np.random.Generator, rounding: str = "single") -> None:
        self.rng = rng
        self.rounding = rounding
        self.builder = relax.BlockBuilder()

    def build(self, shape: tuple[int, int, int], body: Sequence[str], widths: list[int]) -> tvm.IRModule:
        """A module over float32 [1, C, H, W] whose operators are named in ``body``; ``widths`` are drawn from."""
        height, width, channels = shape
        x = relax.Var("x", relax.TensorType((1, channels, height, width), "float32"))
        self.widths = widths
        with self.builder.function("main", [x]):
            with self.builder.dataflow():
                nhwc = self.builder.emit(relax.op.permute_dims(x, (0, 2, 3, 1)))
                image = self._quantize(nhwc, 0.05, int(self.rng.integers(-20, 20)))
                for name in body:
                    image = getattr(self, name)(image)
                    while np.prod(_shape(image)) > LARGEST:
                        image = self.max_pool(image, smaller=True)
                image = self.dense(image)
                result = self.builder.emit_output(self._dequantize(image))
            self.builder.emit_func_output(result)
        return with_rounding(self.builder.finalize(), self.rounding)

    def conv(self, image: Image) -> Image:
        """A convolution of any kernel, stride, dilation and padding that fits."""
        _, height, width, channels = _shape(image)
        return self._conv(image, self._draw(1, 9), groups=1, depth=channels)

    def depthwise(self, image: Image) -> Image:
        """Depthwise, multiplier 1 or 2."""
        channels = _shape(image)[3]
        return self._conv(image, channels * self._draw(1, 3), groups=channels, depth=1)

    def grouped(self, image: Image) -> Image:
        """A convolution in two groups, where the channels are even."""
        channels = _shape(image)[3]
        if channels % 2:
            return self.conv(image)
        return self._conv(image, 2 * self._draw(1, 4), groups=2, depth=channels // 2)

    def transposed(self, image: Image) -> Image:
        """A transposed convolution, cropped or not, with rows and columns behind that nothing reaches or without."""
        kernel, strides = (self._draw(1, 4), self._draw(1, 4)), (self._draw(1, 4), self._draw(1, 4))
        crop = [self._draw(0, side) for side in (*kernel, *kernel)]
        _, height, width, channels = _shape(image)
        sides = [(height, 0), (width, 1)]
        if any((side - 1) * strides[i] + kernel[i] - crop[i] - crop[i + 2] < 1 for side, i in sides):
            crop = [0, 0, 0, 0]
        weights, scales = self._weights((self._draw(1, 6), *kernel, channels))
        layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI", "out_layout": "NHWC"}
        x, w = self._dequantize(image), self._constant(weights, scales)
        behind = [self._draw(0, stride) for stride in strides]
        geometry = {"strides": strides, "padding": crop, "output_padding": behind}
        total = self.builder.emit(relax.op.nn.conv2d_transpose(x, w, **geometry, **layouts))
        return self._finish(total, image[1] * scales, int(np.prod(weights.shape[1:])))

    def rows(self, image: Image) -> Image:
        """A dense layer over every pixel."""
        return self._dense(image, self._draw(1, 9))

    def residual(self, image: Image) -> Image:
        """``image`` and ``conv3x3(image)``, added, subtracted or multiplied."""
        channels = _shape(image)[3]
        other = self._conv(image, channels, groups=1, depth=channels, same=True)
        return self._binary(image, other)

    def twice(self, image: Image) -> Image:
        """``image`` with itself."""
        return self._binary(image, image)

    def broadcast(self, image: Image) -> Image:
        """``image`` with a constant, of its shape or broadcast, on either side."""
        _, height, width, channels = _shape(image)
        shapes = [(), (channels,), (1, 1, width, 1), (1, height, 1, channels), (1, height, width, channels)]
        values = self.rng.integers(-128, 128, shapes[self._draw(0, len(shapes))]).astype(np.int8)
        constant = relax.const(values), self._scale(), self._zero_point()
        return self._binary(image, constant) if self.rng.random() < 0.5 else self._binary(constant, image)

    def gate(self, image: Image) -> Image:
        """``image`` with its own mean over height and width, broadcast, on either side."""
        total = self.builder.emit(relax.op.mean(self._dequantize(image), [1, 2], keepdims=True))
        means = self._quantize(total, image[1] * float(self.rng.uniform(0.3, 1.5)), self._zero_point())
        return self._binary(image, means) if self.rng.random() < 0.5 else self._binary(means, image)

    def _binary(self, a: Image, b: Image) -> Image:
        compute = (relax.op.add, relax.op.subtract, relax.op.multiply)[self._draw(0, 3)]
        total = self.builder.emit(compute(self._dequantize(a), self._dequantize(b)))
        spread = 127 * a[1] * b[1] if compute is relax.op.multiply else max(a[1], b[1])
        return self._quantize(self._activation(total), spread * float(self.rng.uniform(0.5, 2.5)), self._zero_point())

    def requantize(self, image: Image) -> Image:
        """From one scale and zero point to another."""
        real = self._activation(self._dequantize(image))
        return self._quantize(real, image[1] * float(self.rng.uniform(0.3, 3.0)), self._zero_point())

    def lookup(self, image: Image) -> Image:
        """Any table."""
        table = relax.const(self.rng.integers(-128, 128, 256).astype(np.int8))
        wide = self.builder.emit(relax.op.astype(image[0], "int32"))
        index = self.builder.emit(relax.op.add(wide, relax.const(np.int32(128))))
        return self.builder.emit(relax.op.take(table, index)), self._scale(), self._zero_point()

    def softmax(self, image: Image) -> Image:
        """Over the channels."""
        total = self.builder.emit(relax.op.nn.softmax(self._dequantize(image), axis=-1))
        return self._quantize(total, 1 / 256, -128)

    def causal(self, image: Image) -> Image:
        """A softmax over each pixel's products with those before it: attention's scores."""
        q, scale, zero_point = self.matmul(image)
        _, pixels, _, _ = _shape((q, scale, zero_point))
        scores = self.builder.emit(relax.op.reshape(q, (1, pixels, pixels)))
        mask = relax.const(np.triu(np.full((pixels, pixels), -np.inf, np.float32), 1))
        masked = self.builder.emit(relax.op.add(self._dequantize((scores, self._scale(), zero_point)), mask))
        total = self.builder.emit(relax.op.nn.softmax(masked, axis=-1))
        chances, *parameters = self._quantize(total, 1 / 256, -128)
        return (self.builder.emit(relax.op.reshape(chances, (1, 1, pixels, pixels))), *parameters)

    def layer_norm(self, image: Image) -> Image:
        """Over the channels, to a scale at which a step is fine or coarse."""
        channels = _shape(image)[3]
        one, zero = (relax.const(fill(channels, np.float32)) for fill in (np.ones, np.zeros))
        real, epsilon = self._dequantize(image), float(10.0 ** self.rng.uniform(-9, 0))
        normal = self.builder.emit(relax.op.nn.layer_norm(real, one, zero, axes=[-1], epsilon=epsilon))
        return self._quantize(normal, float(10.0 ** self.rng.uniform(-4, 0)), self._zero_point())

    def embedding(self, image: Image) -> Image:
        """A row of a table for each of the first values, many of which lie outside."""
        features = int(np.prod(_shape(image)))
        flat = self.builder.emit(relax.op.reshape(image[0], (1, features)))
        few = self.builder.emit(relax.op.strided_slice(flat, [1], [0], [min(features, 12)]))
        rows, width = self._draw(1, 257), self._draw(1, 6)
        table = relax.const(self.rng.integers(-128, 128, (rows, width)).astype(np.int8))
        wide = self.builder.emit(relax.op.astype(few, "int32"))
        token = self.builder.emit(relax.op.add(wide, relax.const(np.int32(-self._zero_point()))))
        inside = self.builder.emit(relax.op.clip(token, 0, rows - 1))
        found = self.builder.emit(relax.op.take(table, inside, axis=0))
        image = self.builder.emit(relax.op.reshape(found, (1, 1, min(features, 12), width)))
        return image, self._scale(), self._zero_point()

    def max_pool(self, image: Image, smaller: bool = False) -> Image:
        """Max pooling, padded or not."""
        q, scale, zero_point = image
        _, height, width, _ = _shape(image)
        size = (self._draw(1, min(3, height) + 1), self._draw(1, min(3, width) + 1))
        padding = [0] * 4 if smaller else [self._draw(0, side) for side in (*size, *size)]
        strides = (2, 2) if smaller else (self._draw(1, 3), self._draw(1, 3))
        if smaller and height == width == 1:
            return self._slice(image, (0, 0, 0, 0), (1, 1, 1, LARGEST), (1, 1, 1, 1))
        pooled = relax.op.nn.max_pool2d(q, size, strides, padding, layout="NHWC")
        return self.builder.emit(pooled), scale, zero_point

    def avg_pool(self, image: Image) -> Image:
        """Average pooling, padded or not; TFLite's keeps the scale."""
        _, height, width, _ = _shape(image)
        size = (self._draw(1, min(3, height) + 1), self._draw(1, min(3, width) + 1))
        padding = [self._draw(0, side) for side in (*size, *size)] if self.rng.random() < 0.5 else [0, 0, 0, 0]
        strides = (self._draw(1, 3), self._draw(1, 3))
        x = self._dequantize(image)
        pooled = relax.op.nn.avg_pool2d(x, size, strides, padding, count_include_pad=False, layout="NHWC")
        total = self._activation(self.builder.emit(pooled))
        if self.rounding == "tflite":
            return self._quantize(total, image[1], image[2])
        return self._quantize(total, image[1] * float(self.rng.uniform(0.3, 1.5)), self._zero_point())

    def mean(self, image: Image) -> Image:
        """Over height and width, or over one axis."""
        axes = ([1, 2], [1], [2], [3], [1, 3])[self._draw(0, 5)]
        total = self.builder.emit(relax.op.mean(self._dequantize(image), axes, keepdims=True))
        return self._quantize(total, image[1] * float(self.rng.uniform(0.3, 1.5)), self._zero_point())

    def matmul(self, image: Image) -> Image:
        """Every pixel's channels times every other's: attention's first half."""
        q, scale, zero_point = image
        _, height, width, channels = _shape(image)
        pixels = min(height * width, 12)
        flat = self.builder.emit(relax.op.reshape(q, (1, height * width, channels)))
        few = self.builder.emit(relax.op.strided_slice(flat, [1], [0], [pixels]))
        turned = self.builder.emit(relax.op.permute_dims(few, (0, 2, 1)))
        reals = self._dequantize((few, scale, zero_point)), self._dequantize((turned, scale, zero_point))
        total = self.builder.emit(relax.op.matmul(*reals))
        spread = scale * scale * float(self.rng.uniform(20, 200)) * channels
        product, *parameters = self._quantize(total, spread, self._zero_point())
        return (self.builder.emit(relax.op.reshape(product, (1, pixels, pixels, 1))), *parameters)

    def bilinear(self, image: Image) -> Image:
        """To any size."""
        modes = "half_pixel", "align_corners", "asymmetric"
        size, mode = (self._draw(1, 12), self._draw(1, 12)), modes[self._draw(0, 3)]
        resized = relax.op.image.resize2d(
            self._dequantize(image), size, layout="NHWC", method="linear", coordinate_transformation_mode=mode
        )
        return self._quantize(self._activation(self.builder.emit(resized)), image[1], image[2])

    def pad(self, image: Image) -> Image:
        """With the zero point or another value, any axis but the first."""
        q, scale, zero_point = image
        widths = [0, 0, *(int(width) for width in self.rng.integers(0, 3, 6))]
        value = zero_point if self.rng.random() < 0.7 else self._draw(-128, 128)
        return self.builder.emit(relax.op.nn.pad(q, widths, pad_value=value)), scale, zero_point

    def permute(self, image: Image) -> Image:
        """Height, width and channels in another order."""
        axes = [0, *(int(axis) for axis in self.rng.permutation([1, 2, 3]))]
        return (self.builder.emit(relax.op.permute_dims(image[0], axes)), *image[1:])

    def concat(self, image: Image) -> Image:
        """With itself, with a table of itself or with a constant."""
        other = image[0] if self.rng.random() < 0.3 else self.lookup(image)[0]
        if self.rng.random() < 0.3:
            other = relax.const(self.rng.integers(-128, 128, _shape(image)).astype(np.int8))
        return (self.builder.emit(relax.op.concat([image[0], other], axis=self._draw(1, 4))), *image[1:])

    def slice(self, image: Image) -> Image:
        """Any part, any step, backwards too."""
        begin, end, steps = [0], [1], [1]
        for extent in _shape(image)[1:]:
            first, step = self._draw(0, extent), int(self.rng.choice([1, 1, 2, 3, -1]))
            begin.append(first)
            end.append(extent if step > 0 else -extent - 1)
            steps.append(step)
        return self._slice(image, tuple(begin), tuple(end), tuple(steps))

    def _slice(self, image: Image, begin: tuple[int, ...], end: tuple[int, ...], steps: tuple[int, ...]) -> Image:
        part = relax.op.strided_slice(image[0], list(range(4)), list(begin), list(end), list(steps))
        return (self.builder.emit(part), *image[1:])

    def take(self, image: Image) -> Image:
        """Some indices of an axis, in any order."""
        axis = self._draw(1, 4)
        indices = self.rng.integers(0, _shape(image)[axis], self._draw(1, 6)).astype(np.int32)
        return (self.builder.emit(relax.op.take(image[0], relax.const(indices), axis=axis)), *image[1:])

    def dense(self, image: Image) -> Image:
        """Flatten and a dense layer."""
        q, scale, zero_point = image
        features = int(np.prod(_shape(image)[1:]))
        flat = self.builder.emit(relax.op.reshape(q, (1, features))), scale, zero_point
        return self._dense(flat, self._draw(1, 12))

    def _dense(self, rows: Image, outputs: int) -> Image:
        """Weights of one scale a row, or of one in all."""
        features = _shape(rows)[-1]
        weights, scales = self._weights((outputs, features))
        of_weights = scales
        if self.rng.random() < 0.3:
            scales, of_weights = np.full_like(scales, scales[0]), scales[0]
        kernel = self.builder.emit(relax.op.permute_dims(self._constant(weights, of_weights)))
        total = self.builder.emit(relax.op.matmul(self._dequantize(rows), kernel))
        return self._finish(total, rows[1] * scales, features)

    def _conv(self, image: Image, outputs: int, groups: int, depth: int, same: bool = False) -> Image:
        _, height, width, _ = _shape(image)
        kernel = (3, 3) if same else (self._draw(1, min(4, height) + 1), self._draw(1, min(4, width) + 1))
        dilation = 2 if not same and max(kernel) * 2 <= min(height, width) and self.rng.random() < 0.3 else 1
        weights, scales = self._weights((outputs, *kernel, depth))
        total = relax.op.nn.conv2d(
            self._dequantize(image),
            self._constant(weights, scales),
            strides=1 if same else (self._draw(1, 3), self._draw(1, 3)),
            padding=1 if same else [self._draw(0, side) for side in (*kernel, *kernel)],
            dilation=dilation,
            groups=groups,
            data_layout="NHWC",
            kernel_layout="OHWI",
        )
        return self._finish(self.builder.emit(total), image[1] * scales, int(np.prod(weights.shape[1:])))

    def _finish(self, total: relax.Var, scales: np.ndarray, taps: int) -> Image:
        """Bias, activation and the output quantisation, at a scale that uses the int8 range."""
        if self.rng.random() < 0.8:
            bias = self.rng.integers(-2000, 2000, len(scales)).astype(np.int32)
            total = self.builder.emit(relax.op.add(total, self._constant(bias, scales)))
        spread = float(scales.mean()) * np.sqrt(taps) * float(self.rng.uniform(0.5, 20.0))
        return self._quantize(self._activation(total), spread, self._zero_point())

    def _activation(self, total: relax.Var) -> relax.Var:
        kind = self._draw(0, 3)
        if kind == 0:
            return total
        return self.builder.emit(relax.op.nn.relu(total) if kind == 1 else relax.op.clip(total, 0.0, 6.0))

    def _weights(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """int8 weights whose channels have drawn widths, and their float32 scales (powers of two, or any)."""
        bits = self.rng.choice(self.widths, shape[0])
        low, high = -((1 << bits) // 2), np.maximum((1 << bits) // 2, 1)  # width 0: zeros
        column = (slice(None), *[None] * (len(shape) - 1))
        weights = self.rng.integers(low[column], high[column], shape)
        powers = self.rng.random() < 0.5
        scales = 2.0 ** -self.rng.integers(2, 6, shape[0]) if powers else self.rng.uniform(0.01, 0.1, shape[0])
        return weights.astype(np.int8), scales.astype(np.float32)

    def _constant(self, values: np.ndarray, scales: np.ndarray) -> relax.Var:
        parameters = relax.const(scales.astype(np.float32)), relax.const(np.zeros(scales.shape, np.int8))
        return self.builder.emit(relax.op.dequantize(relax.const(values), *parameters, axis=0))

    def _quantize(self, x: relax.Var, scale: float, zero_point: int) -> Image:
        parameters = relax.const(np.float32(scale)), relax.const(np.int8(zero_point))
        return (
            self.builder.emit(relax.op.quantize(x, *parameters, out_dtype="int8")),
            float(np.float32(scale)),
            zero_point,
        )

    def _dequantize(self, image: Image) -> relax.Var:
        q, scale, zero_point = image
        return self.builder.emit(
            relax.op.dequantize(q, relax.const(np.float32(scale)), relax.const(np.int8(zero_point)))
        )

    def _scale(self) -> float:
        return float(np.float32(10 ** self.rng.uniform(-4, 1)))

    def _zero_point(self) -> int:
        return int(self.rng.choice([-128, 0, 127, int(self.rng.integers(-128, 128))]))

    def _draw(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high))


def random_graph(
    seed: int, widths: list[int] | None = None, rounding: str | None = None
) -> tuple[tvm.IRModule, np.ndarray]:
    """A module drawn from ``seed`` and float32 inputs [3, C, H, W] for it."""
    return graph_of(seed, kinds_of(seed), widths, rounding)


def kinds_of(seed: int) -> list[str]:
    """The operators drawn for a seed."""
    rng = np.random.default_rng([seed, 0])
    return [str(kind) for kind in rng.choice(KINDS, int(rng.integers(1, 6)))]


def graph_of(
    seed: int, kinds: Sequence[str], widths: list[int] | None = None, rounding: str | None = None
) -> tuple[tvm.IRModule, np.ndarray]:
    """A graph of these operators, all else drawn from the seed."""
    rng = np.random.default_rng([seed, 1])
    shape = (int(rng.integers(1, 9)), int(rng.integers(1, 9)), int(rng.integers(1, 6)))
    drawn = str(rng.choice(["single", "tflite"]))
    module = GraphBuilder(rng, rounding or drawn).build(shape, kinds, widths or list(range(9)))
    height, width, channels = shape
    return module, rng.normal(0, 3, (3, channels, height, width)).astype(np.float32)


def _shape(image: Image) -> tuple[int, ...]:
    return shape_of(image[0])
