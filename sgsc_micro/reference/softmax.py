"""TFLite's integer softmax (docs/semantics.md): exp and 1 / (1 + x) on int32 words of so many fraction bits."""

from __future__ import annotations

import numpy as np

from sgsc_micro.errors import SgscError
from sgsc_micro.reference.arithmetic import halved, high_product, tflite_multiplier

ONE = 2**31 - 1
LONGEST = 511
EXP_OF_BIT = {
    24: 1672461947,  # exp(-1/4)
    25: 1302514674,  # exp(-1/2)
    26: 790015084,  # exp(-1)
    27: 290630308,  # exp(-2)
    28: 39332535,  # exp(-4)
    29: 720401,  # exp(-8)
    30: 242,  # exp(-16)
}
"""By the bit of a word with 26 fraction bits, in 31 fraction bits."""


def exp_negative(x: np.ndarray) -> np.ndarray:
    """exp of words <= 0 with 26 fraction bits, as words with 31."""
    quarter = 1 << 24
    near = x % quarter - quarter  # [-1/4, 0)
    a = (near << 5) + (1 << 28)  # around -1/8, 31 fraction bits
    square = high_product(a, a)
    cube, fourth = high_product(square, a), high_product(square, square)
    tail = halved(high_product(halved(fourth, 2) + cube, 715827883) + square, 1)
    result = 1895147668 + high_product(a + tail, 1895147668)
    for bit, factor in EXP_OF_BIT.items():
        result = np.where((near - x) >> bit & 1, high_product(result, factor), result)
    return np.where(x == 0, ONE, result)


def reciprocal(x: np.ndarray) -> np.ndarray:
    """1 / (1 + x) for x in [0, 1) with 31 fraction bits, by three steps of Newton's method with 29."""
    half = (x + ONE + 1) // 2
    y = 1515870810 + high_product(half, -1010580540)
    for _ in range(3):
        y = y + np.clip(high_product(y, (1 << 29) - high_product(half, y)) << 2, -(2**31), ONE)
    return np.where(y >= 1 << 30, ONE, 2 * y)


def softmax_rows(q: np.ndarray, scale: float, seen: np.ndarray | bool = True) -> np.ndarray:
    """int8 integers at scale 1/256, zero point -128, of int8 [..., n] at ``scale``.

    ``seen`` is bool, broadcastable to q: what a mask leaves; one value of each row at least.
    Errors: ``SgscError`` where n is beyond 511 or the scale not above 2^-26.
    """
    ratio = min(scale * 2.0**26, 2.0**31 - 1)
    if q.shape[-1] > LONGEST or ratio <= 1:
        raise SgscError(f"reference: softmax over {q.shape[-1]} values of scale {scale}")
    m, left = tflite_multiplier(ratio)
    difference = q.astype(np.int64) - np.where(seen, q, -128).max(axis=-1, keepdims=True)
    counts = seen & (-difference <= (31 << 26) >> left)
    terms = np.where(counts, exp_negative(high_product(np.where(counts, difference, 0) << left, m)), 0)
    total = halved(terms, 12).sum(axis=-1, keepdims=True)  # 19 fraction bits
    zeros = 31 - np.floor(np.log2(total)).astype(np.int64)  # leading, of 32 bits
    factor = reciprocal((total << zeros) - (1 << 31))
    return np.minimum(halved(high_product(factor, terms), 35 - zeros), 255) - 128
