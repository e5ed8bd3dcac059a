"""The arithmetic of docs/semantics.md on whole arrays. Products of these integers are exact in float64."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from sgsc_micro.errors import SgscError

INT32_MAX = 2**31 - 1


def quantise(x: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """int64 of real ``x``: clip(floor(x / scale + 1/2) + zero_point, -128, 127)."""
    return np.clip(np.floor(np.asarray(x, dtype=np.float64) / scale + 0.5) + zero_point, -128, 127).astype(np.int64)


def multiplier(ratio: float) -> tuple[int, int, int]:
    """(m, t, l) of a positive ratio of scales, in exact rational arithmetic."""
    r, left = Fraction(ratio), 0
    while r / 2**left >= Fraction(1, 4):
        left += 1
    shift = max((t for t in range(1, 23) if r / 2**left * 2 ** (32 + t) < 2**31), default=1)
    m = (r / 2**left * 2 ** (32 + shift) + Fraction(1, 2)).__floor__()
    return min(m, INT32_MAX), shift, left


def requantise(accumulator: np.ndarray, ratio: np.ndarray, zero_point: int, low: int, high: int) -> np.ndarray:
    """int64 in [low, high] of an int32 accumulator [..., C]; ``ratio`` float64, one or one per channel."""
    m, shift, left = (
        np.array(v, dtype=np.int64) for v in zip(*map(multiplier, np.atleast_1d(ratio).tolist()), strict=True)
    )
    scaled = accumulator << left
    if np.abs(scaled).max(initial=0) > INT32_MAX:
        raise SgscError("reference: an accumulator leaves int32", hint="use larger output scales or narrower weights")
    rounded = (scaled * m + (np.int64(1) << (31 + shift))) >> (32 + shift)
    return np.clip(rounded + zero_point, low, high)


def windows(x: np.ndarray, size: list[int], strides: list[int], padding: list[int], fill: int) -> np.ndarray:
    """int64 [N, Y, X, C, kh, kw] views of [N, H, W, C], padded (top, left, bottom, right) with ``fill``."""
    top, left, bottom, right = padding
    padded = np.pad(x, [(0, 0), (top, bottom), (left, right), (0, 0)], constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(padded, size, axis=(1, 2))
    return view[:, :: strides[0], :: strides[1]]


def conv2d(
    x: np.ndarray, w: np.ndarray, *, strides: list[int], padding: list[int], dilation: list[int], groups: int
) -> np.ndarray:
    """int64 [N, Y, X, O] of centred activations [N, H, W, C] and weights [O, kh, kw, C / groups]."""
    outputs, kh, kw, depth = w.shape
    reach = [(kh - 1) * dilation[0] + 1, (kw - 1) * dilation[1] + 1]
    taps = windows(x, reach, strides, padding, fill=0)[..., :: dilation[0], :: dilation[1]]
    n, height, width = taps.shape[:3]
    taps = taps.reshape(n, height, width, groups, depth, kh * kw).transpose(3, 0, 1, 2, 5, 4)
    rows = taps.reshape(groups, n * height * width, kh * kw * depth).astype(np.float64)  # [g, pixels, taps]
    kernels = w.reshape(groups, outputs // groups, kh * kw * depth).astype(np.float64)  # [g, o, taps]
    result = rows @ kernels.transpose(0, 2, 1)  # [g, pixels, o]
    return result.transpose(1, 0, 2).reshape(n, height, width, outputs).astype(np.int64)
