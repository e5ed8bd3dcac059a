"""The arithmetic of docs/semantics.md on whole arrays: quantising, multipliers, both roundings."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import cache

import numpy as np

from sgsc_micro.errors import SgscError

INT32_MAX = 2**31 - 1


def quantise(x: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """int64 of real ``x``: clip(floor(x / scale + 1/2) + zero_point, -128, 127)."""
    return np.clip(np.floor(np.asarray(x, dtype=np.float64) / scale + 0.5) + zero_point, -128, 127).astype(np.int64)


def bound(value: float, scale: float, zero_point: int, rounding: str) -> int:
    """The int8 that a real bound of an activation becomes; an infinite one is the end of the range."""
    if np.isinf(value):
        return 127 if value > 0 else -128
    if rounding == "single":
        return int(quantise(np.array(value), scale, zero_point))
    quotient = Fraction(float(np.float32(value) / np.float32(scale)))
    steps = (abs(quotient) + Fraction(1, 2)).__floor__() * (1 if quotient >= 0 else -1)
    return min(max(steps + zero_point, -128), 127)


@cache
def multiplier(ratio: float) -> tuple[int, int, int]:
    """(m, t, l) of a positive ratio of scales in ``single`` rounding, in exact rational arithmetic."""
    r, left = Fraction(ratio), 0
    while r / 2**left >= Fraction(1, 4):
        left += 1
    shift = max((t for t in range(1, 23) if r / 2**left * 2 ** (32 + t) < 2**31), default=1)
    m = (r / 2**left * 2 ** (32 + shift) + Fraction(1, 2)).__floor__()
    return min(m, INT32_MAX), shift, left


@cache
def tflite_multiplier(ratio: float) -> tuple[int, int]:
    """(m, e) of a positive ratio in ``tflite`` rounding: ratio = m / 2^31 * 2^e; m is 0 below 2^-32."""
    r, exponent = Fraction(ratio), 0
    while r * 2**-exponent >= 1:
        exponent += 1
    while r * Fraction(2) ** -exponent < Fraction(1, 2):
        exponent -= 1
    m = (r * Fraction(2) ** -exponent * 2**31 + Fraction(1, 2)).__floor__()
    if m == 2**31:
        m, exponent = 2**30, exponent + 1
    return (m, exponent) if exponent >= -31 else (0, 0)


def divided_multiplier(m: int, exponent: int, count: int) -> tuple[int, int]:
    """What TFLite makes of a multiplier for the mean of ``count`` values."""
    shift = min(count.bit_length() - 1, 32, 31 + exponent)
    return (m << shift) // count, exponent - shift


def high_product(a: np.ndarray, b: np.ndarray | int) -> np.ndarray:
    """M(a, b) = floor((a * b + 2^30) / 2^31), int64."""
    return (np.asarray(a, np.int64) * b + (1 << 30)) >> 31


def halved(x: np.ndarray, bits: np.ndarray | int) -> np.ndarray:
    """D(x, bits): x / 2^bits to the nearest integer, half away from zero."""
    half = (np.int64(1) << np.asarray(bits, np.int64)) >> 1
    return np.where(x >= 0, (x + half) >> bits, -((half - x) >> bits))


def requantise_single(accumulator: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """int64 accumulator / real output step, ``ratio`` float64 broadcastable to it, rounded once, half up.

    Errors: ``SgscError`` where a shifted accumulator leaves int32.
    """
    m, shift, left = _each(multiplier, ratio)
    scaled = accumulator << left if left.any() else accumulator
    _check_int32(scaled)
    return (scaled * m + (np.int64(1) << (31 + shift))) >> (32 + shift)


def requantise_twice(accumulator: np.ndarray, ratio: np.ndarray, count: int = 1) -> np.ndarray:
    """The same in TFLite's two roundings; the multiplier divided by ``count`` as its mean does.

    Errors: ``SgscError`` where a shifted accumulator leaves int32.
    """
    m, exponent = _each(lambda r: divided_multiplier(*tflite_multiplier(r), count), ratio)
    scaled = accumulator << np.maximum(exponent, 0)
    _check_int32(scaled)
    return halved(high_product(scaled, m), np.maximum(-exponent, 0))


def _each(choose: Callable[[float], tuple[int, ...]], ratio: np.ndarray) -> list[np.ndarray]:
    """The integers chosen for each ratio, as arrays of its shape."""
    distinct, where = np.unique(np.asarray(ratio, np.float64), return_inverse=True)
    columns = zip(*(choose(value) for value in distinct.tolist()), strict=True)
    return [np.array(column, dtype=np.int64)[where].reshape(np.shape(ratio)) for column in columns]


def _check_int32(values: np.ndarray) -> None:
    if max(values.max(initial=0), -values.min(initial=0)) > INT32_MAX:
        raise SgscError("reference: an accumulator leaves int32", hint="use larger output scales or narrower weights")
