"""Operators on activations alone: elementwise, pooling, means, softmax, interpolation."""

from __future__ import annotations

import math

import numpy as np
from tvm import relax

from sgsc_micro.errors import SgscError
from sgsc_micro.ir import constant_of, is_constant
from sgsc_micro.reference import arithmetic as exact
from sgsc_micro.reference.softmax import softmax_rows
from sgsc_micro.reference.values import Accumulator, Dequantised, Finished, Masked, Normalised, Value
from sgsc_micro.reference.weighted import aligned, dequantised, numbers, padded, taps

ADD_BITS = 20
RESIZE_BITS = 10


def add(rounding: str, _call: relax.Call, a: Value, b: Value) -> Value:
    """A bias at its accumulator's scale, two activations, or a mask of 0 and -inf; of plain integers their sum."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a + b
    if isinstance(b, np.ndarray):
        return _masked(dequantised(a), b)
    if isinstance(a, Accumulator):
        bias = dequantised(b)
        if bias.q.ndim != 2 or not np.allclose(bias.scale, a.scale, rtol=1e-5, atol=0):
            raise SgscError("reference: a bias is not at the scale of its accumulator")
        return Accumulator(a.integers + bias.centred, a.scale)
    return _sum(rounding, dequantised(a), dequantised(b), 1)


def _masked(x: Dequantised, mask: np.ndarray) -> Masked:
    seen = mask == 0
    if not (seen | np.isneginf(mask)).all() or not seen.any(axis=-1).all():
        raise SgscError("reference: a mask has to be 0 and -inf, and 0 somewhere in every row")
    return Masked(x, seen)


def subtract(rounding: str, _call: relax.Call, a: Value, b: Value) -> Value:
    """a - b."""
    return _sum(rounding, dequantised(a), dequantised(b), -1)


def _sum(rounding: str, a: Dequantised, b: Dequantised, sign: int) -> Accumulator:
    values, scales = aligned(a.centred, b.centred), [t.scale.astype(np.float64) for t in (a, b)]
    largest = np.maximum(*scales)
    if rounding == "single":
        x, y = (v * int(np.floor(2.0**ADD_BITS * (s / largest) + 0.5)) for v, s in zip(values, scales, strict=True))
        return Accumulator(x + sign * y, np.asarray(largest / 2.0**ADD_BITS))
    twice = 2 * largest
    x, y = (exact.requantise_twice(v << ADD_BITS, np.asarray(s / twice)) for v, s in zip(values, scales, strict=True))
    return Accumulator(x + sign * y, np.asarray(twice / 2.0**ADD_BITS))


def multiply(_rounding: str, _call: relax.Call, a: Value, b: Value) -> Accumulator:
    """a * b."""
    a, b = dequantised(a), dequantised(b)
    x, y = aligned(a.centred, b.centred)
    return Accumulator(x * y, np.asarray(a.scale.astype(np.float64) * b.scale.astype(np.float64)))


def max_pool2d(_rounding: str, call: relax.Call, x: Value) -> np.ndarray:
    """The largest int8 of each window."""
    attrs = call.attrs
    if not isinstance(x, np.ndarray) or attrs.ceil_mode or any(v != 1 for v in numbers(attrs.dilation)):
        raise SgscError("reference: max pooling of real values, with ceil_mode or dilation")
    image = padded(x, numbers(attrs.padding), fill=-128)
    return np.maximum.reduce(taps(image, numbers(attrs.pool_size), numbers(attrs.strides), [1, 1]))


def avg_pool2d(rounding: str, call: relax.Call, x: Value) -> Value:
    """The mean of what each window sees of the image."""
    x, attrs = dequantised(x), call.attrs
    size, strides, padding = numbers(attrs.pool_size), numbers(attrs.strides), numbers(attrs.padding)
    if attrs.ceil_mode or (any(padding) and attrs.count_include_pad):
        raise SgscError("reference: average pooling with ceil_mode or that counts its padding")
    inside = padded(np.ones((1, 1, *x.q.shape[2:4], 1), np.int64), padding)
    count = np.sum(taps(inside, size, strides, [1, 1]), axis=0)  # [1, 1, Y, X, 1]
    total = np.add.reduce(taps(padded(x.q.astype(np.int64), padding), size, strides, [1, 1]))
    if rounding == "single":
        return Accumulator(total - count * x.zero_point, x.scale.astype(np.float64) / count)
    mean = np.sign(total) * ((np.abs(total) + count // 2) // count)
    return Finished(mean, float(x.scale), x.zero_point)


def mean(rounding: str, call: relax.Call, x: Value) -> Accumulator:
    """Over whole axes."""
    x = dequantised(x)
    rank = x.q.ndim - 1
    named = range(rank) if call.attrs.axis is None else numbers(call.attrs.axis)
    axes = tuple({axis % rank + 1 for axis in named})
    total, count = x.centred.sum(axis=axes, keepdims=bool(call.attrs.keepdims)), math.prod(x.q.shape[a] for a in axes)
    scale = x.scale.astype(np.float64)
    return Accumulator(total, scale, count) if rounding == "tflite" else Accumulator(total, np.asarray(scale / count))


def softmax(_rounding: str, call: relax.Call, x: Value) -> Finished:
    """Over the last axis."""
    masked = x if isinstance(x, Masked) else Masked(dequantised(x), np.array(True))
    q = masked.value.q
    if int(call.attrs.axis) not in (-1, q.ndim - 2):
        raise SgscError("reference: softmax over another axis than the last")
    return Finished(softmax_rows(q, float(masked.value.scale), masked.seen), 1 / 256, -128)


def layer_norm(_rounding: str, call: relax.Call, x: Value, *_: Value) -> Normalised:
    """Over the last axis, without weights."""
    x = dequantised(x)
    weights, bias = (constant_of(argument) if is_constant(argument) else None for argument in call.args[1:3])
    if numbers(call.attrs.axes) not in ([-1], [x.q.ndim - 2]) or not (np.all(weights == 1) and np.all(bias == 0)):
        raise SgscError("reference: layer norm with weights, or over other axes than the last")
    return Normalised(x, float(call.attrs.epsilon))


def resize2d(_rounding: str, call: relax.Call, x: Value) -> Finished:
    """Linear interpolation over height and width of [N, 1, H, W, C], 10 fraction bits an axis."""
    x, attrs = dequantised(x), call.attrs
    if attrs.method != "linear":
        raise SgscError(f"reference: a resize by {attrs.method}")
    total = x.q.astype(np.int64)
    for axis, size in zip((2, 3), numbers(call.args[1].values), strict=True):
        first, second, weight = _between(total.shape[axis], size, str(attrs.coordinate_transformation_mode))
        weight = weight.reshape(-1, *[1] * (total.ndim - 1 - axis))
        total = total.take(first, axis) * ((1 << RESIZE_BITS) - weight) + total.take(second, axis) * weight
    return Finished(exact.halved(total, 2 * RESIZE_BITS), float(x.scale), x.zero_point)


def _between(extent: int, size: int, mode: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each output index: both neighbours and the second's weight in 1024ths, which may be negative."""
    whole, parts = (extent - 1, size - 1) if mode == "align_corners" and size > 1 else (extent, size)
    step = (1024 * whole + parts // 2) // parts
    position = np.array([i * step + (step // 2 - 512 if mode == "half_pixel" else 0) for i in range(size)])
    first = np.maximum(np.trunc(position / 1024).astype(np.int64), 0)
    second = np.minimum(np.trunc((position + 1023) / 1024).astype(np.int64), extent - 1)
    return first, second, position - 1024 * first
