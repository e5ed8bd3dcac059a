"""TFLite operators to Relax QDQ, one function each: those that compute. Those that move bytes are in moves.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tflite
from tvm import relax

from sgsc_micro.importers.tflite.model import Operator, Refused, Tensor
from sgsc_micro.importers.tflite.tables import (
    hard_swish_table,
    leaky_relu_table,
    logistic_table,
    tanh_table,
)
from sgsc_micro.ir import shape_of

_LAYOUTS = {"data_layout": "NHWC", "kernel_layout": "OHWI", "out_layout": "NHWC"}


@dataclass
class Scope:
    """The expressions of tensors by index: int8, but for a float32 input that is quantised first."""

    builder: relax.BlockBuilder
    values: dict[int, relax.Expr] = field(default_factory=dict)

    def emit(self, expression: relax.Expr) -> relax.Var:
        """Bound to a variable, typed."""
        return self.builder.emit(expression)

    def integers(self, tensor: Tensor) -> relax.Expr:
        """int8 of an activation or a constant."""
        if tensor.dtype != "int8":
            raise Refused(f"reads {tensor}, which is {tensor.dtype}: only int8 is computed on")
        if 0 in tensor.shape:
            raise Refused(f"reads {tensor}, which is empty: {list(tensor.shape)}")
        if tensor.index in self.values:
            return self.values[tensor.index]
        if tensor.values is None:
            raise Refused(f"reads {tensor}, which nothing writes")
        self.values[tensor.index] = relax.const(tensor.values)
        return self.values[tensor.index]

    def real(self, tensor: Tensor) -> relax.Var:
        """What its integers stand for."""
        return self.dequantized(self.integers(tensor), tensor)

    def dequantized(self, q: relax.Expr, tensor: Tensor) -> relax.Var:
        """What ``q`` stands for, quantised as ``tensor`` is."""
        return self.emit(relax.op.dequantize(q, *_parameters(tensor)))

    def quantized(self, x: relax.Expr, tensor: Tensor) -> relax.Var:
        """int8 of ``x``, quantised as ``tensor`` is."""
        if tensor.dtype != "int8":
            raise Refused(f"writes {tensor}, which is {tensor.dtype}: only int8 is computed")
        return self.emit(relax.op.quantize(x, *_parameters(tensor), out_dtype="int8"))

    def activated(self, x: relax.Expr, activation: int, tensor: Tensor) -> relax.Var:
        """int8 of ``x`` behind a fused activation, by its number in the schema."""
        kind = tflite.ActivationFunctionType
        clips = {kind.RELU6: (0.0, 6.0), kind.RELU_N1_TO_1: (-1.0, 1.0)}
        if activation == kind.RELU:
            x = self.emit(relax.op.nn.relu(x))
        elif activation in clips:
            x = self.emit(relax.op.clip(x, *clips[activation]))
        elif activation != kind.NONE:
            raise Refused(f"has the fused activation {activation}, which int8 kernels do not have")
        return self.quantized(x, tensor)


def _parameters(tensor: Tensor) -> tuple[relax.Constant, relax.Constant]:
    return relax.const(np.float32(tensor.scale)), relax.const(np.int8(tensor.zero_point))


def constant(tensor: Tensor, *dtypes: str) -> np.ndarray:
    """The value of a constant of one of these types."""
    if tensor.values is None:
        raise Refused(f"reads {tensor}, which is not a constant")
    if tensor.dtype not in dtypes:
        raise Refused(f"reads {tensor}, which is {tensor.dtype}, not {' or '.join(dtypes)}")
    return tensor.values


def integers(tensor: Tensor) -> list[int]:
    """The values of a constant of shapes, axes or sizes."""
    return [int(value) for value in constant(tensor, "int32", "int64").ravel()]


def axis_of(axis: int, rank: int) -> int:
    """From 0, of an axis that may be counted from the end."""
    if not -rank <= axis < rank:
        raise Refused(f"has axis {axis} of {rank}")
    return axis % rank


def same_quantisation(x: Tensor, y: Tensor) -> None:
    """For operators that hand integers on: a real value must not change its meaning on the way."""
    if not np.isclose(x.scale, y.scale, rtol=1e-6, atol=0) or x.zero_point != y.zero_point:
        raise Refused(
            f"hands {x} (scale {x.scale}, zero point {x.zero_point}) on as {y} (scale {y.scale}, zero point "
            f"{y.zero_point}): both have to be quantised alike"
        )


def padding(kind: int, extent: int, size: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Before and after one axis; the larger half comes after."""
    if stride < 1 or dilation < 1 or size < 1:
        raise Refused(f"has stride {stride}, dilation {dilation}, window {size}")
    if kind == tflite.Padding.VALID:
        return 0, 0
    if kind != tflite.Padding.SAME:
        raise Refused(f"has padding {kind}, which is neither SAME nor VALID")
    total = max((-(-extent // stride) - 1) * stride + (size - 1) * dilation + 1 - extent, 0)
    return total // 2, total - total // 2


def _windows(options: Any, image: tuple[int, ...], size: tuple[int, int], dilation: tuple[int, int]) -> dict[str, Any]:
    """Strides and padding (top, left, bottom, right) of a window over an NHWC image."""
    strides = options.StrideH(), options.StrideW()
    top, bottom = padding(options.Padding(), image[1], size[0], strides[0], dilation[0])
    left, right = padding(options.Padding(), image[2], size[1], strides[1], dilation[1])
    return {"strides": strides, "padding": (top, left, bottom, right)}


def _rank(tensor: Tensor, rank: int) -> tuple[int, ...]:
    if len(tensor.shape) != rank or 0 in tensor.shape:
        raise Refused(f"reads {tensor} of shape {list(tensor.shape)}, not of {rank} axes")
    return tensor.shape


def _weights(scope: Scope, values: np.ndarray, tensor: Tensor) -> relax.Var:
    """[O, ...], with a scale per output channel."""
    parameters = relax.const(tensor.channel_scales(len(values))), relax.const(np.zeros(len(values), np.int8))
    return scope.emit(relax.op.dequantize(relax.const(np.ascontiguousarray(values)), *parameters, axis=0))


def _biased(scope: Scope, total: relax.Var, bias: Tensor | None, x: Tensor, w: Tensor, channels: int) -> relax.Var:
    """With the bias, if there is one: int32 at the accumulator's scale."""
    if bias is None:
        return total
    values = constant(bias, "int32")
    if values.shape != (channels,):
        raise Refused(f"has {bias} of shape {list(values.shape)} as bias of {channels} channels")
    scales = relax.const((np.float64(x.scale) * w.channel_scales(channels)).astype(np.float32))
    zero_points = relax.const(np.zeros(channels, np.int8))
    return scope.emit(
        relax.op.add(total, scope.emit(relax.op.dequantize(relax.const(values), scales, zero_points, axis=0)))
    )


def conv_2d(scope: Scope, op: Operator) -> relax.Var:
    """Kernels OHWI; grouped where they are shallower than the image."""
    options, x, w = op.options("Conv2DOptions"), op.input(0), op.input(1)
    image, kernels = _rank(x, 4), constant(w, "int8", "int4")
    outputs, *size, depth = _rank(w, 4)
    dilation = options.DilationHFactor(), options.DilationWFactor()
    if image[3] % depth or outputs % (image[3] // depth):
        raise Refused(f"has kernels of depth {depth} and {outputs} outputs on {image[3]} channels")
    geometry = _windows(options, image, (size[0], size[1]), dilation) | {"dilation": dilation}
    total = relax.op.nn.conv2d(
        scope.real(x), _weights(scope, kernels, w), **geometry, groups=image[3] // depth, **_LAYOUTS
    )
    total = _biased(scope, scope.emit(total), op.optional(2), x, w, outputs)
    return scope.activated(total, options.FusedActivationFunction(), op.output)


def depthwise_conv_2d(scope: Scope, op: Operator) -> relax.Var:
    """Kernels 1HWO: output c * multiplier + m reads channel c alone."""
    options, x, w = op.options("DepthwiseConv2DOptions"), op.input(0), op.input(1)
    image, kernels = _rank(x, 4), constant(w, "int8", "int4")
    _, height, width, outputs = _rank(w, 4)
    dilation = options.DilationHFactor(), options.DilationWFactor()
    if kernels.shape[0] != 1 or outputs != image[3] * options.DepthMultiplier():
        raise Refused(
            f"has kernels {list(kernels.shape)} on {image[3]} channels, multiplier {options.DepthMultiplier()}"
        )
    geometry = _windows(options, image, (height, width), dilation) | {"dilation": dilation}
    turned = kernels.transpose(3, 1, 2, 0)
    total = relax.op.nn.conv2d(scope.real(x), _weights(scope, turned, w), **geometry, groups=image[3], **_LAYOUTS)
    total = _biased(scope, scope.emit(total), op.optional(2), x, w, outputs)
    return scope.activated(total, options.FusedActivationFunction(), op.output)


def transpose_conv(scope: Scope, op: Operator) -> relax.Var:
    """Inputs: the output's shape, kernels OHWI, the image, a bias."""
    options, w, x = op.options("TransposeConvOptions"), op.input(1), op.input(2)
    image, kernels, result = _rank(x, 4), constant(w, "int8"), op.output.shape
    outputs, height, width, depth = _rank(w, 4)
    if depth != image[3] or len(result) != 4 or integers(op.input(0)) != list(result):
        raise Refused(f"has kernels {list(w.shape)} on {image[3]} channels to {list(result)}")
    strides = options.StrideH(), options.StrideW()
    sides = []
    for axis, size in ((1, height), (2, width)):
        before, _ = padding(options.Padding(), result[axis], size, strides[axis - 1])
        sides.append((before, (image[axis] - 1) * strides[axis - 1] + size - before - result[axis]))
    (top, bottom), (left, right) = sides
    behind = max(-bottom, 0), max(-right, 0)  # rows and columns that no input reaches: they hold the bias alone
    if behind[0] >= strides[0] or behind[1] >= strides[1]:
        raise Refused(f"makes {list(result)} of {list(image)}, more than its kernels and strides can")
    total = relax.op.nn.conv2d_transpose(
        scope.real(x),
        _weights(scope, kernels, w),
        strides=strides,
        padding=(top, left, bottom + behind[0], right + behind[1]),
        output_padding=behind,
        **_LAYOUTS,
    )
    total = _biased(scope, scope.emit(total), op.optional(3), x, w, outputs)
    return scope.activated(total, options.FusedActivationFunction(), op.output)


def fully_connected(scope: Scope, op: Operator) -> relax.Var:
    """Weights [O, I] on rows of I; the rows lie in the input one after another, whatever its shape."""
    options, x, w = op.options("FullyConnectedOptions"), op.input(0), op.input(1)
    kernels = constant(w, "int8", "int4")
    if kernels.ndim != 2 or 0 in kernels.shape or int(np.prod(x.shape)) % kernels.shape[1]:
        raise Refused(f"has weights {list(kernels.shape)} on {list(x.shape)}")
    if options.WeightsFormat() != tflite.FullyConnectedOptionsWeightsFormat.DEFAULT:
        raise Refused("has shuffled weights")
    outputs, depth = kernels.shape
    q = scope.integers(x)
    if len(x.shape) < 2 or x.shape[-1] != depth or not options.KeepNumDims():
        q = scope.emit(relax.op.reshape(q, (int(np.prod(x.shape)) // depth, depth)))
    transposed = scope.emit(relax.op.permute_dims(_weights(scope, kernels, w)))
    total = scope.emit(relax.op.matmul(scope.dequantized(q, x), transposed))
    total = _biased(scope, total, op.optional(2), x, w, outputs)
    result = scope.activated(total, options.FusedActivationFunction(), op.output)
    if shape_of(result) != op.output.shape and int(np.prod(shape_of(result))) == int(np.prod(op.output.shape)):
        result = scope.emit(relax.op.reshape(result, op.output.shape))
    return result


def batch_matmul(scope: Scope, op: Operator) -> relax.Var:
    """Either side turned where the options say so."""
    options = op.options("BatchMatMulOptions")
    reals = []
    for number, turned in enumerate((options.AdjX(), options.AdjY())):
        tensor, axes = op.input(number), list(range(len(op.input(number).shape)))
        if len(axes) < 2:
            raise Refused(f"reads {tensor} of shape {list(tensor.shape)}, not of 2 axes or more")
        q = scope.integers(tensor)
        if turned:
            q = scope.emit(relax.op.permute_dims(q, [*axes[:-2], axes[-1], axes[-2]]))
        reals.append(scope.dequantized(q, tensor))
    return scope.quantized(scope.emit(relax.op.matmul(*reals)), op.output)


def binary(compute: Callable[..., relax.Call], options_name: str) -> Callable[[Scope, Operator], relax.Var]:
    """Add, subtract or multiply, broadcast as NumPy does."""

    def convert(scope: Scope, op: Operator) -> relax.Var:
        reals = scope.real(op.input(0)), scope.real(op.input(1))
        activation = op.options(options_name).FusedActivationFunction()
        return scope.activated(scope.emit(compute(*reals)), activation, op.output)

    return convert


def average_pool_2d(scope: Scope, op: Operator) -> relax.Var:
    """Over the part of each window inside the image; the scale stays."""
    options, x = op.options("Pool2DOptions"), op.input(0)
    same_quantisation(x, op.output)
    size = options.FilterHeight(), options.FilterWidth()
    geometry = _windows(options, _rank(x, 4), size, (1, 1))
    pooled = relax.op.nn.avg_pool2d(scope.real(x), size, **geometry, count_include_pad=False, layout="NHWC")
    return scope.activated(scope.emit(pooled), options.FusedActivationFunction(), op.output)


def max_pool_2d(scope: Scope, op: Operator) -> relax.Var:
    """On the integers themselves."""
    options, x = op.options("Pool2DOptions"), op.input(0)
    same_quantisation(x, op.output)
    size = options.FilterHeight(), options.FilterWidth()
    geometry = _windows(options, _rank(x, 4), size, (1, 1))
    pooled = scope.emit(relax.op.nn.max_pool2d(scope.integers(x), size, **geometry, layout="NHWC"))
    activation = options.FusedActivationFunction()
    if activation == tflite.ActivationFunctionType.NONE:
        return pooled
    return scope.activated(scope.dequantized(pooled, x), activation, op.output)


def mean(scope: Scope, op: Operator) -> relax.Var:
    """Over the axes of input 1."""
    keep = bool(op.options("ReducerOptions").KeepDims())
    axes = sorted({axis_of(axis, len(op.input(0).shape)) for axis in integers(op.input(1))})
    return scope.quantized(scope.emit(relax.op.mean(scope.real(op.input(0)), axes, keep)), op.output)


def softmax(scope: Scope, op: Operator) -> relax.Var:
    """Over the last axis."""
    beta = op.options("SoftmaxOptions").Beta()
    if beta != 1.0:
        raise Refused(f"has beta {beta}, not 1")
    if (op.output.scale, op.output.zero_point) != (1 / 256, -128):
        raise Refused(f"has an output of scale {op.output.scale}, zero point {op.output.zero_point}, not 1/256, -128")
    return scope.quantized(scope.emit(relax.op.nn.softmax(scope.real(op.input(0)), axis=-1)), op.output)


def quantize(scope: Scope, op: Operator) -> relax.Var:
    """Of the network's float input, or from one scale to another."""
    x = op.input(0)
    if x.dtype == "float32" and x.index in scope.values:
        return scope.quantized(scope.values[x.index], op.output)
    return scope.quantized(scope.real(x), op.output)


def relu(scope: Scope, op: Operator) -> relax.Var:
    """To the output's scale."""
    return scope.activated(scope.real(op.input(0)), tflite.ActivationFunctionType.RELU, op.output)


def relu6(scope: Scope, op: Operator) -> relax.Var:
    """A clip of the integers."""
    same_quantisation(op.input(0), op.output)
    return scope.activated(scope.real(op.input(0)), tflite.ActivationFunctionType.RELU6, op.output)


def table(values: Callable[..., np.ndarray]) -> Callable[[Scope, Operator], relax.Var]:
    """A function of one value, looked up."""

    def convert(scope: Scope, op: Operator) -> relax.Var:
        x = op.input(0)
        wide = scope.emit(relax.op.astype(scope.integers(x), "int32"))
        index = scope.emit(relax.op.add(wide, relax.const(np.int32(128))))
        return scope.emit(relax.op.take(relax.const(values(op, x, op.output)), index))

    return convert


def resize_bilinear(scope: Scope, op: Operator) -> relax.Var:
    """To the size of input 1."""
    options, x = op.options("ResizeBilinearOptions"), op.input(0)
    same_quantisation(x, op.output)
    _rank(x, 4)
    if options.AlignCorners() and options.HalfPixelCenters():
        raise Refused("has both align_corners and half_pixel_centers")
    mode = "align_corners" if options.AlignCorners() else "half_pixel" if options.HalfPixelCenters() else "asymmetric"
    resized = relax.op.image.resize2d(
        scope.real(x),
        tuple(integers(op.input(1))),
        layout="NHWC",
        method="linear",
        coordinate_transformation_mode=mode,
    )
    return scope.quantized(scope.emit(resized), op.output)


COMPUTING: dict[str, Callable[[Scope, Operator], relax.Var]] = {
    "ADD": binary(relax.op.add, "AddOptions"),
    "AVERAGE_POOL_2D": average_pool_2d,
    "BATCH_MATMUL": batch_matmul,
    "CONV_2D": conv_2d,
    "DEPTHWISE_CONV_2D": depthwise_conv_2d,
    "FULLY_CONNECTED": fully_connected,
    "HARD_SWISH": table(lambda op, x, y: hard_swish_table(x, y)),
    "LEAKY_RELU": table(lambda op, x, y: leaky_relu_table(x, y, op.options("LeakyReluOptions").Alpha())),
    "LOGISTIC": table(lambda op, x, y: logistic_table(x, y)),
    "MAX_POOL_2D": max_pool_2d,
    "MEAN": mean,
    "MUL": binary(relax.op.multiply, "MulOptions"),
    "QUANTIZE": quantize,
    "RELU": relu,
    "RELU6": relu6,
    "RESIZE_BILINEAR": resize_bilinear,
    "SOFTMAX": softmax,
    "SUB": binary(relax.op.subtract, "SubOptions"),
    "TANH": table(lambda op, x, y: tanh_table(x, y)),
    "TRANSPOSE_CONV": transpose_conv,
}
