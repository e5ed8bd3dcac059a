"""Typical networks at a small scale as int8 TFLite models, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

from tests.tflite_draws import parameters_of
from tests.tflite_graphs import GraphDrawer
from tests.tflite_models import Quantization, Tensor
from tests.tflite_oracles import tflite_micro_outputs

RELU6, RELU, LINEAR = Quantization(6 / 255, -128), Quantization(0.03, -128), Quantization(0.05, 3)
LAYERS = {"RELU6": RELU6, "RELU": RELU, "NONE": LINEAR}
"""Output parameters of a layer, by its fused activation."""


class Network(GraphDrawer):
    """Layers with random weights, whose scales and biases suit what comes out of them, as a converter's would.

    Random weights alone would give every input the same answer behind a few layers: each layer is run on samples, and
    its channels are moved to their middle.
    """

    def __init__(self, seed: int, shape: Sequence[int]) -> None:
        super().__init__(np.random.default_rng(seed))
        self.source = self.writer.activation(shape, Quantization(1 / 64, -5))
        self.samples = self.rng.integers(-128, 128, (8, *shape[1:])).astype(np.int8)

    def conv(self, x: Tensor, channels: int, side: int = 3, stride: int = 1, activation: str = "RELU") -> Tensor:
        """Weights per channel, SAME."""
        shape = channels, side, side, x.shape[3]
        return self._layer("conv_2d", x, shape, 0, activation=activation, strides=(stride, stride))

    def depthwise(self, x: Tensor, stride: int = 1, activation: str = "RELU6") -> Tensor:
        """3 x 3, per channel, SAME."""
        shape = 1, 3, 3, x.shape[3]
        return self._layer("depthwise_conv_2d", x, shape, 3, activation=activation, strides=(stride, stride))

    def upsampled(self, x: Tensor, channels: int) -> Tensor:
        """A transposed convolution to twice the height and width."""
        shape, sides = (channels, 2, 2, x.shape[3]), (2 * x.shape[1], 2 * x.shape[2])
        return self._layer("transpose_conv", x, shape, 0, sides=sides, strides=(2, 2))

    def dense(self, x: Tensor, outputs: int, activation: str = "NONE", single: bool = False) -> Tensor:
        """Over rows of the last axis; weights per channel, or of a ``single`` scale."""
        options = {"keep_num_dims": len(x.shape) > 2, "activation": activation}
        return self._layer("fully_connected", x, (outputs, x.shape[-1]), 0, single=single, **options)

    def _layer(
        self, kind: str, x: Tensor, shape: tuple[int, ...], axis: int, *, single: bool = False, **options: Any
    ) -> Tensor:
        """Run once without an activation, to see each channel's mean and deviation, then written for good."""
        weights = self.rng.normal(0, 42, shape).clip(-127, 127).round().astype(np.int8)
        scales, bias = self.calibrated(x, weights, axis, LINEAR, np.full(1 if single else shape[axis], 0.3))
        probe = self.writer.copy()
        plain = {**options, "activation": "NONE"} if "activation" in options else options
        sums = getattr(probe, kind)(x, weights, scales, 0 * bias, LINEAR, **plain)
        seen = tflite_micro_outputs(probe.bytes([self.source], [sums]), self.samples).reshape(-1, shape[axis])
        middle, deviation = seen.mean(0) - LINEAR.zero_point, np.maximum(seen.std(0), 2)
        output = LAYERS[options.get("activation", "NONE")]
        step = LINEAR.scale / (parameters_of(x).scale * scales)  # of ``seen``, in units of the sums
        bias = np.round((self.rng.normal(0, 0.3, shape[axis]) * deviation - middle) * step).astype(np.int32)
        goal = 40 if output is LINEAR else 80
        scales *= goal / (deviation.mean() if single else deviation) * output.scale / LINEAR.scale
        written: Tensor = getattr(self.writer, kind)(x, weights, scales, bias, output, **options)
        return written

    def classified(self, x: Tensor, classes: int) -> bytes:
        """Global average, a dense layer, softmax; the file."""
        pooled = self.writer.pool("AVERAGE_POOL_2D", x, (x.shape[1], x.shape[2]), (1, 1), "VALID")
        logits = self.dense(self.reshaped(pooled, (1, x.shape[3])), classes, single=True)
        return self.file(self.writer.unary("SOFTMAX", logits, Quantization(1 / 256, -128), beta=1.0))

    def file(self, result: Tensor) -> bytes:
        return self.writer.bytes([self.source], [result])


def mobilenet(seed: int = 0, side: int = 48, width: int = 4, classes: int = 10) -> bytes:
    """27 convolutions, as MobileNet v1: one, and 13 depthwise separable blocks."""
    net = Network(seed, (1, side, side, 3))
    x = net.conv(net.source, width, stride=2, activation="RELU6")
    for channels, stride in [(2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *[(16, 1)] * 5, (32, 2), (32, 1)]:
        x = net.conv(net.depthwise(x, stride), channels * width, side=1, activation="RELU6")
    return net.classified(x, classes)


def autoencoder(seed: int = 0, sizes: Sequence[int] = (128, 64, 64, 64, 64, 8, 64, 64, 64, 64, 128)) -> bytes:
    """Fully connected, per channel, as the anomaly detection of MLPerf Tiny."""
    net = Network(seed, (1, sizes[0]))
    x = net.source
    for size in sizes[1:-1]:
        x = net.dense(x, size, "RELU")
    return net.file(net.dense(x, sizes[-1]))


def resnet(seed: int = 0, side: int = 32, width: int = 8, blocks: int = 2, classes: int = 10) -> bytes:
    """Three stages of ``blocks`` residual blocks, with a projection where the shape changes."""
    net = Network(seed, (1, side, side, 3))
    x = net.conv(net.source, width)
    for stage in range(3):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            inner = net.conv(net.conv(x, width << stage, stride=stride), width << stage, activation="NONE")
            projected = net.conv(x, width << stage, side=1, stride=stride, activation="NONE") if stride > 1 else x
            x = net.writer.binary("ADD", projected, inner, RELU, "RELU")
    return net.classified(x, classes)


def unet(seed: int = 0, side: int = 16, width: int = 4, resize: bool = False) -> bytes:
    """Two levels down and up again, by transposed convolution or by resizing; a mask out."""
    net = Network(seed, (1, side, side, 1))
    x, skips = net.source, []
    for level in range(2):
        skips.append(net.conv(x, width << level))
        x = net.writer.pool("MAX_POOL_2D", skips[-1], (2, 2), (2, 2), "VALID")
    x = net.conv(x, width << 2)
    for level in (1, 0):
        sides = (2 * x.shape[1], 2 * x.shape[2])
        up = net.writer.resize("RESIZE_BILINEAR", x, sides, False, True) if resize else net.upsampled(x, width << level)
        parts = [net.writer.unary("QUANTIZE", part, LINEAR) for part in (up, skips[level])]
        x = net.conv(net.writer.joined("CONCATENATION", parts, 3), width << level)
    return net.file(
        net.writer.unary("LOGISTIC", net.conv(x, 1, side=1, activation="NONE"), Quantization(1 / 256, -128))
    )


def attention(seed: int = 0, tokens: int = 9, width: int = 16, heads: int = 2) -> bytes:
    """One transformer block: attention over ``tokens``, then two dense layers, both with a residual."""
    net = Network(seed, (1, tokens, width))

    def head(x: Tensor) -> Tensor:
        apart = net.reshaped(net.dense(x, width), (1, tokens, heads, width // heads))
        return _transposed(net, apart)

    queries, keys, values = (head(net.source) for _ in range(3))
    scores = net.writer.batch_matmul(queries, keys, Quantization(0.04, 4), adj_y=True)
    weights = net.writer.unary("SOFTMAX", scores, Quantization(1 / 256, -128), beta=1.0)
    mixed = _transposed(net, net.writer.batch_matmul(weights, values, Quantization(0.03, 2)))
    x = net.writer.binary("ADD", net.source, net.dense(net.reshaped(mixed, (1, tokens, width)), width), LINEAR)
    inner = net.dense(net.dense(x, 2 * width, "RELU"), width)
    return net.file(net.writer.mean(net.writer.binary("ADD", x, inner, LINEAR), [1], LINEAR, keep_dims=False))


def _transposed(net: Network, x: Tensor) -> Tensor:
    """[1, a, b, c] as [1, b, a, c]."""
    shape = (1, x.shape[2], x.shape[1], x.shape[3])
    return net.writer.arranged("TRANSPOSE", x, shape, net.writer.constant([0, 2, 1, 3]))


NETWORKS: dict[str, Callable[[int], bytes]] = {
    "mobilenet": mobilenet,
    "autoencoder": autoencoder,
    "resnet": resnet,
    "unet": unet,
    "unet_resize": lambda seed: unet(seed, resize=True),
    "attention": attention,
}
"""Typical networks by name, drawn from a seed."""


def network_inputs(model: bytes, seed: int, count: int = 3) -> np.ndarray:
    """Random int8 inputs [count, ...] for the model's one input."""
    graph = schema.Model.GetRootAsModel(model, 0).Subgraphs(0)
    shape = graph.Tensors(graph.Inputs(0)).ShapeAsNumpy()
    return np.random.default_rng(seed).integers(-128, 128, (count, *shape[1:])).astype(np.int8)
