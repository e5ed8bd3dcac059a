"""Random quantised graphs in the one form, for tests that compare a compiler stage with the reference."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

Image = tuple[relax.Var, float, int]  # int8 tensor [1, H, W, C], its scale and zero point


class GraphBuilder:
    """Emits QDQ operators with constants drawn from ``rng``; every method takes and gives an int8 image."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.builder = relax.BlockBuilder()

    def build(self, shape: tuple[int, int, int], body: list[str], widths: list[int]) -> tvm.IRModule:
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
                image = self.dense(image)
                result = self.builder.emit_output(self._dequantize(image))
            self.builder.emit_func_output(result)
        return self.builder.finalize()

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

    def residual(self, image: Image) -> Image:
        """``add(image, conv3x3(image))``."""
        channels = _shape(image)[3]
        other = self._conv(image, channels, groups=1, depth=channels, same=True)
        total = self.builder.emit(relax.op.add(self._dequantize(image), self._dequantize(other)))
        return self._quantize(self._activation(total), float(self.rng.uniform(0.02, 0.2)), self._zero_point())

    def twice(self, image: Image) -> Image:
        """``add(image, image)``."""
        total = self.builder.emit(relax.op.add(self._dequantize(image), self._dequantize(image)))
        return self._quantize(self._activation(total), image[1] * float(self.rng.uniform(0.5, 2.5)), self._zero_point())

    def requantize(self, image: Image) -> Image:
        """From one scale and zero point to another."""
        real = self._activation(self._dequantize(image))
        return self._quantize(real, image[1] * float(self.rng.uniform(0.3, 3.0)), self._zero_point())

    def max_pool(self, image: Image) -> Image:
        """Max pooling, padded or not."""
        q, scale, zero_point = image
        _, height, width, _ = _shape(image)
        size = (self._draw(1, min(3, height) + 1), self._draw(1, min(3, width) + 1))
        padding = [self._draw(0, side) for side in (*size, *size)]
        strides = (self._draw(1, 3), self._draw(1, 3))
        pooled = relax.op.nn.max_pool2d(q, size, strides, padding, layout="NHWC")
        return self.builder.emit(pooled), scale, zero_point

    def avg_pool(self, image: Image) -> Image:
        """Average pooling without padding."""
        _, height, width, _ = _shape(image)
        size = (self._draw(1, min(3, height) + 1), self._draw(1, min(3, width) + 1))
        pooled = relax.op.nn.avg_pool2d(self._dequantize(image), size, (self._draw(1, 3), 1), layout="NHWC")
        return self._quantize(
            self.builder.emit(pooled), image[1] * float(self.rng.uniform(0.3, 1.5)), self._zero_point()
        )

    def dense(self, image: Image) -> Image:
        """Flatten and a dense layer."""
        q, scale, zero_point = image
        features = int(np.prod(_shape(image)[1:]))
        flat = self.builder.emit(relax.op.reshape(q, (1, features))), scale, zero_point
        outputs = self._draw(1, 12)
        weights, scales = self._weights((outputs, features))
        kernel = self.builder.emit(relax.op.permute_dims(self._constant(weights, scales)))
        total = self.builder.emit(relax.op.matmul(self._dequantize(flat), kernel))
        return self._finish(total, scale * scales, features)

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
        parameters = relax.const(scales.astype(np.float32)), relax.const(np.zeros(len(scales), np.int8))
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

    def _zero_point(self) -> int:
        return int(self.rng.choice([-128, 0, int(self.rng.integers(-128, 128))]))

    def _draw(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high))


def random_graph(seed: int, widths: list[int] | None = None) -> tuple[tvm.IRModule, np.ndarray]:
    """A module drawn from ``seed`` and float32 inputs [3, C, H, W] for it."""
    rng = np.random.default_rng(seed)
    kinds = ["conv", "depthwise", "grouped", "residual", "twice", "requantize", "max_pool", "avg_pool"]
    body = [str(kind) for kind in rng.choice(kinds, int(rng.integers(1, 6)))]
    shape = (int(rng.integers(1, 9)), int(rng.integers(1, 9)), int(rng.integers(1, 6)))
    module = GraphBuilder(rng).build(shape, body, widths or list(range(9)))
    height, width, channels = shape
    return module, rng.normal(0, 3, (3, channels, height, width)).astype(np.float32)


def _shape(image: Image) -> tuple[int, ...]:
    return tuple(int(extent) for extent in image[0].ty.shape)
