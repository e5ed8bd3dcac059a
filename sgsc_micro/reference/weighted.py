"""Convolutions and matrix products: exact integers through BLAS, in float32 where every sum stays below 2^24."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import relax

from sgsc_micro.errors import SgscError
from sgsc_micro.reference.values import Accumulator, Dequantised, Value


def numbers(values: Any) -> list[int]:
    """Python integers of a Relax array."""
    return [int(value) for value in values]


def dequantised(x: Value) -> Dequantised:
    """``x``, which an operator reads.

    Errors: ``SgscError`` where it was not quantised.
    """
    if not isinstance(x, Dequantised):
        raise SgscError("reference: an operator reads a tensor that is not quantised")
    return x


def taps(x: np.ndarray, size: list[int], strides: list[int], dilation: list[int]) -> list[np.ndarray]:
    """Views [N, 1, Y, X, C] of an image [N, 1, H, W, C], already padded: what each place of a window sees, in order."""
    rows, columns = (
        (x.shape[axis + 2] - (size[axis] - 1) * dilation[axis] - 1) // strides[axis] * strides[axis] + 1
        for axis in (0, 1)
    )
    return [
        x[:, :, dy : dy + rows : strides[0], dx : dx + columns : strides[1]]
        for dy in np.arange(size[0]) * dilation[0]
        for dx in np.arange(size[1]) * dilation[1]
    ]


def padded(x: np.ndarray, padding: list[int], fill: int = 0) -> np.ndarray:
    """An image [N, 1, H, W, C] with (top, left, bottom, right) of ``fill`` around it."""
    top, left, bottom, right = padding
    return np.pad(x, [(0, 0), (0, 0), (top, bottom), (left, right), (0, 0)], constant_values=fill)


def conv2d(_rounding: str, call: relax.Call, x: Value, w: Value) -> Accumulator:
    """Integers [N, 1, Y, X, O] of activations [N, 1, H, W, C] and weights [1, O, kh, kw, C / groups]."""
    x, w, attrs = dequantised(x), dequantised(w), call.attrs
    kernels, groups = w.centred[0], int(attrs.groups)
    outputs, kh, kw, depth = kernels.shape
    dtype = _exact(kernels.reshape(outputs, -1))
    image = padded(x.floats(dtype), numbers(attrs.padding))
    seen = taps(image, [kh, kw], numbers(attrs.strides), numbers(attrs.dilation))
    by_tap = kernels.reshape(groups, outputs // groups, kh * kw, depth).astype(dtype)
    pixels = seen[0].shape[:4]
    if depth == 1:  # depthwise: nothing for a matrix product to do
        total = np.zeros((*pixels, groups, outputs // groups), dtype)
        for tap, part in enumerate(seen):
            total += part[..., None] * by_tap[:, :, tap, 0]
    else:
        grouped = [part.reshape(*part.shape[:-1], groups, 1, depth) for part in seen]
        rows = np.concatenate(grouped, axis=-2).reshape(*pixels, groups, -1)  # [N, 1, Y, X, g, taps]
        flat = rows.reshape(math.prod(pixels), groups, -1).transpose(1, 0, 2)
        matrices = by_tap.reshape(groups, outputs // groups, -1).transpose(0, 2, 1)
        total = (flat @ matrices).transpose(1, 0, 2)  # [pixels, g, o]
    return Accumulator(total.reshape(*pixels, outputs).astype(np.int64), _product(x.scale, w.scale))


def conv2d_transpose(_rounding: str, call: relax.Call, x: Value, w: Value) -> Accumulator:
    """Every pixel of [N, 1, H, W, C] adds itself times the kernel [1, O, kh, kw, C] to the output, which is cropped.

    ``output_padding`` is rows below and columns to the right that no pixel reaches.
    """
    x, w, attrs = dequantised(x), dequantised(w), call.attrs
    kernels = w.centred[0]
    outputs, kh, kw, _ = kernels.shape
    dtype = _exact(kernels.reshape(outputs, -1))
    image = x.floats(dtype)
    height, width = image.shape[2:4]
    (sy, sx), (top, left, bottom, right) = numbers(attrs.strides), numbers(attrs.padding)
    below, beside = numbers(attrs.output_padding)
    sides = (height - 1) * sy + kh + below, (width - 1) * sx + kw + beside
    total = np.zeros((*image.shape[:2], *sides, outputs), dtype)
    for dy in range(kh):
        for dx in range(kw):
            place = total[:, :, dy : dy + (height - 1) * sy + 1 : sy, dx : dx + (width - 1) * sx + 1 : sx]
            place += image @ kernels[:, dy, dx].T.astype(dtype)
    cropped = total[:, :, top : total.shape[2] - bottom, left : total.shape[3] - right]
    return Accumulator(cropped.astype(np.int64), _product(x.scale, w.scale))


def matmul(_rounding: str, _call: relax.Call, a: Value, b: Value) -> Accumulator:
    """[N, ..., M, K] times [N, ..., K, P] or a constant [1, K, P]."""
    a, b = dequantised(a), dequantised(b)
    left, right = a.floats(np.float64), b.floats(np.float64)
    if math.prod(right.shape[:-2]) == 1:  # one matrix for every row there is
        total = left.reshape(-1, left.shape[-1]) @ right.reshape(right.shape[-2:])
        total = total.reshape(*left.shape[:-1], right.shape[-1])
    else:
        total = np.matmul(*aligned(left, right))
    return Accumulator(total.astype(np.int64), _product(a.scale, b.scale))


def aligned(a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
    """Both with as many axes as the longer has, new ones behind the batch axis."""
    rank = max(a.ndim, b.ndim)
    return [v.reshape(v.shape[0], *[1] * (rank - v.ndim), *v.shape[1:]) for v in (a, b)]


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(a.astype(np.float64) * b.astype(np.float64))


def _exact(weights: np.ndarray) -> type[np.floating]:
    """The float type in which Σ w * x is exact in any order, for weights [O, taps] and |x| up to 255."""
    return np.float32 if np.abs(weights).sum(axis=1).max(initial=0) * 255 < 2**24 else np.float64
